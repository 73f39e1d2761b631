/* The optimum of a block of rows, coarse to fine (Raphael, PAMI 2001).
 *
 * Every row keeps a list of intervals of columns, and a bound of its term in each. A path takes one interval of every
 * row, none wholly left of the one before. The best path bounds the optimum from above; the better end of each of its
 * intervals, made non-decreasing, is a candidate, which bounds it from below. Intervals through which no path reaches
 * the candidate go; of the rest those with loose bounds are cut in four. Bounds are tight to second order in the width,
 * so few intervals are left at every level, where the program over all cells would take rows x columns. It solves what
 * is left once that is little.
 */
#include "terms.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define AT_FIRST 16 /* intervals a row */
#define AN_ITEM 2   /* intervals an item of the ranking at most, and LEAST more: 48 bytes */
#define LEAST 65536
#define PIECES 4
/* Intervals are cut whose own bound is loose by more than this part of what a row falls short on average. */
#define LOOSE 0.25
#define STEPS 8 /* to all of them */
/* The program over cells takes about as long for so many as one more level for an interval. */
#define CELLS_AN_INTERVAL 64

typedef struct {
    int32_t left, right; /* columns */
    double bound;        /* the most that the row's term gains here over its value at the first candidate */
    double sum;          /* of the bounds on the best path to here, later on the best path from here */
} Interval;

typedef struct {
    const Terms *terms;
    int32_t first, rows;
    const double *start; /* [rows] the term of every row at the first candidate */
    Interval *intervals;
    int64_t *from;   /* [rows + 1] where the intervals of a row begin */
    int32_t *path;   /* [rows] */
    double value;    /* what the best candidate gains over the first */
    double rounding; /* of that */
    int64_t most;    /* intervals at any time */
} Search;

static double gain_at(const Search *search, int32_t row, int32_t a)
{
    const Terms *terms = search->terms;
    const int32_t place = search->first + row;
    return term_of(terms, terms->p[place], place + 1.0, a) - search->start[row];
}

static Interval interval_of(const Search *search, int32_t row, int32_t left, int32_t right)
{
    const Terms *terms = search->terms;
    const int32_t place = search->first + row;
    const double most = most_inside(terms, terms->p[place], place + 1.0, left, right);
    return (Interval){left, right, most - search->start[row], 0.0};
}

/* Cut at the same columns for all rows, evenly on the scale on which the task loss is even, log(i + a). */
static int start(Search *search)
{
    const int32_t *last = search->terms->hi + search->first;
    const double i = search->first + 0.5 * search->rows + 1.0;
    const int64_t room = search->most / 2 / search->rows;
    const int pieces = room < AT_FIRST ? (int)room : AT_FIRST;
    int32_t cut[AT_FIRST];
    for (int k = 1; k < pieces; k++)
        cut[k] = (int32_t)(i * pow(1.0 + last[search->rows - 1] / i, k / (double)pieces) - i);
    if (!(search->intervals = malloc((size_t)search->rows * pieces * sizeof *search->intervals)))
        return -1;
    int64_t count = 0;
    for (int32_t row = 0; row < search->rows; row++) {
        search->from[row] = count;
        int32_t left = 0;
        for (int k = 1; left <= last[row]; k++) {
            int32_t right = k >= pieces || cut[k] > last[row] ? last[row] : cut[k];
            if (right >= left)
                search->intervals[count++] = interval_of(search, row, left, right);
            left = right >= left ? right + 1 : left;
        }
    }
    search->from[search->rows] = count;
    return 0;
}

/* The best path to every interval; returns the largest of all. */
static double sum_forward(Search *search)
{
    for (int32_t row = 0; row < search->rows; row++) {
        int64_t before = row ? search->from[row - 1] : 0; /* the first row has none */
        double best = row ? -INFINITY : 0.0;
        for (int64_t each = search->from[row]; each < search->from[row + 1]; each++) {
            Interval *interval = &search->intervals[each];
            for (; before < search->from[row] && search->intervals[before].left <= interval->right; before++)
                best = fmax(best, search->intervals[before].sum);
            interval->sum = interval->bound + best;
        }
    }
    double top = -INFINITY;
    for (int64_t each = search->from[search->rows - 1]; each < search->from[search->rows]; each++)
        top = fmax(top, search->intervals[each].sum);
    return top;
}

/* The better ends along the best path, made non-decreasing, become `a` if that is better. */
static void try_path(Search *search, int32_t *a)
{
    int32_t right = INT32_MAX;
    for (int32_t row = search->rows - 1; row >= 0; row--) {
        const Interval *best = &search->intervals[search->from[row]];
        for (const Interval *each = best + 1; each < search->intervals + search->from[row + 1] && each->left <= right; each++)
            best = each->sum > best->sum ? each : best;
        right = best->right;
        search->path[row] = gain_at(search, row, best->left) >= gain_at(search, row, right) ? best->left : right;
    }
    double value = 0.0;
    for (int32_t row = 0; row < search->rows; row++) {
        if (row && search->path[row] < search->path[row - 1])
            search->path[row] = search->path[row - 1];
        value = gain_at(search, row, search->path[row]) + value;
    }
    if (value > search->value) {
        search->value = value;
        memcpy(a + search->first, search->path, (size_t)search->rows * sizeof *a);
    }
}

/* Drop what no path leads through that is as good as the candidate; the array shrinks to what stays. Returns 0 if a
 * row has nothing left: the candidate is best. */
static int drop(Search *search)
{
    const int64_t count = search->from[search->rows];
    int64_t kept = count, behind = count;
    for (int32_t row = search->rows - 1; row >= 0; row--) {
        const int64_t end = kept;
        int64_t after = behind - 1; /* of the row below, end..behind; the last has none */
        double best = row == search->rows - 1 ? 0.0 : -INFINITY;
        for (int64_t each = search->from[row + 1] - 1; each >= search->from[row]; each--) {
            Interval interval = search->intervals[each];
            for (; after >= end && search->intervals[after].right >= interval.left; after--)
                best = fmax(best, search->intervals[after].sum);
            if (interval.sum + best < search->value - search->rounding)
                continue;
            interval.sum = interval.bound + best;
            search->intervals[--kept] = interval;
        }
        if (kept == end)
            return 0;
        behind = end;
        search->from[row + 1] = end;
    }
    memmove(search->intervals, search->intervals + kept, (size_t)(count - kept) * sizeof *search->intervals);
    for (int32_t row = search->rows; row > 0; row--)
        search->from[row] -= kept;
    search->from[0] = 0;
    Interval *shorter = realloc(search->intervals, (size_t)(count - kept) * sizeof *shorter);
    search->intervals = shorter ? shorter : search->intervals;
    return 1;
}

static int64_t pieces_of(const Interval *interval, double loose)
{
    const int64_t width = (int64_t)interval->right - interval->left + 1;
    if (width == 1 || !(interval->sum > loose))
        return 1;
    return width < PIECES ? width : PIECES;
}

static int64_t count_pieces(const Search *search, double loose)
{
    int64_t count = 0;
    for (int64_t each = 0; each < search->from[search->rows]; each++)
        count += pieces_of(&search->intervals[each], loose);
    return count;
}

enum { FINER, SINGLE, FULL };

/* Cut what is loose, in four. SINGLE: all are of one column; FULL: there is no room; -1: memory ran out. */
static int cut(Search *search, double loose)
{
    const int64_t kept = search->from[search->rows];
    for (int32_t row = 0; row < search->rows; row++)
        for (int64_t each = search->from[row]; each < search->from[row + 1]; each++) {
            Interval *interval = &search->intervals[each];
            interval->sum = interval->bound - fmax(gain_at(search, row, interval->left), gain_at(search, row, interval->right));
        }
    int64_t count = count_pieces(search, loose);
    for (int step = 0; step < STEPS && count < kept + kept / 2; step++) /* a pass for few of them is a pass too many */
        count = count_pieces(search, loose = step < STEPS - 1 ? loose / 16.0 : -INFINITY);
    if (count == kept)
        return SINGLE;
    for (; count > search->most; count = count_pieces(search, loose)) /* the loosest, as far as there is room */
        loose = loose > 0.0 ? 2.0 * loose : fmax(search->rounding / search->rows, DBL_MIN);
    if (count < kept + kept / 8)
        return FULL;
    Interval *finer = realloc(search->intervals, (size_t)count * sizeof *finer);
    if (!finer)
        return -1;
    search->intervals = finer;
    int64_t each = kept - 1;
    for (int32_t row = search->rows - 1; row >= 0; row--) { /* from the end: nothing is written over */
        search->from[row + 1] = count;
        for (; each >= search->from[row]; each--) {
            const Interval whole = finer[each];
            const int64_t pieces = pieces_of(&whole, loose), width = (int64_t)whole.right - whole.left + 1;
            if (pieces == 1)
                finer[--count] = whole;
            for (int64_t k = pieces; pieces > 1 && k > 0; k--)
                finer[--count] = interval_of(search, row, (int32_t)(whole.left + (k - 1) * width / pieces),
                                             (int32_t)(whole.left + k * width / pieces - 1));
        }
    }
    return FINER;
}

static int32_t first_column(const Search *search, int32_t row) { return search->intervals[search->from[row]].left; }

static int32_t last_column(const Search *search, int32_t row)
{
    return search->intervals[search->from[row + 1] - 1].right;
}

static int has_few_cells(const Search *search)
{
    int64_t cells = 0;
    for (int32_t row = 0; row < search->rows; row++)
        cells += (int64_t)last_column(search, row) - first_column(search, row) + 1;
    return cells <= CELLS_AN_INTERVAL * search->from[search->rows];
}

/* The program over the cells between the outermost intervals of every row, the candidate within: rounding may have
 * dropped its own, and no row must be left without a cell. */
static int solve_cells(const Search *search, int32_t *a)
{
    const int32_t rows = search->rows, *candidate = a + search->first;
    int32_t *left = search->path, *right = malloc((size_t)rows * sizeof *right);
    if (!right)
        return -1;
    for (int32_t row = 0; row < rows; row++) {
        const int32_t column = first_column(search, row);
        left[row] = column < candidate[row] ? column : candidate[row];
        left[row] = row && left[row - 1] > left[row] ? left[row - 1] : left[row];
    }
    for (int32_t row = rows - 1; row >= 0; row--) {
        const int32_t column = last_column(search, row);
        right[row] = column > candidate[row] ? column : candidate[row];
        right[row] = row < rows - 1 && right[row + 1] < right[row] ? right[row + 1] : right[row];
    }
    int failed = solve_rows(search->terms, search->first, search->first + rows - 1, left, right, a);
    free(right);
    return failed;
}

static int refine(Search *search, int32_t *a)
{
    for (;;) {
        const double top = sum_forward(search);
        if (!(top > search->value + search->rounding))
            return 0;
        try_path(search, a);
        if (!(top > search->value + search->rounding) || !drop(search))
            return 0;
        if (has_few_cells(search))
            return solve_cells(search, a);
        const int cutting = cut(search, LOOSE * (top - search->value) / search->rows);
        if (cutting != FINER)
            return cutting == FULL ? solve_cells(search, a) : cutting == SINGLE ? 0 : -1;
    }
}

/* The optimum of rows first..last of the negative update, given a candidate. */
int coarse_to_fine(const Terms *terms, int32_t first, int32_t last, int32_t *a)
{
    const size_t rows = (size_t)last - first + 1;
    char *memory = malloc(rows * (sizeof(double) + sizeof(int64_t) + sizeof(int32_t)) + sizeof(int64_t));
    if (!memory)
        return -1;
    double *values = (double *)memory;
    int64_t *from = (int64_t *)(values + rows);
    const int64_t items = (int64_t)terms->rows + terms->negatives.count;
    Search search = {.terms = terms, .first = first, .rows = (int32_t)rows, .start = values, .from = from,
                     .path = (int32_t *)(from + rows + 1), .most = AN_ITEM * items + LEAST};
    for (int32_t row = first; row <= last; row++) {
        values[row - first] = term_of(terms, terms->p[row], row + 1.0, a[row]);
        search.rounding += rounding_of(terms, terms->p[row], a[row]);
    }
    int failed = start(&search);
    if (!failed)
        failed = refine(&search, a);
    free(search.intervals);
    free(memory);
    return failed;
}
