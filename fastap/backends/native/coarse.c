/* The optimum of a block of rows, coarse to fine (Raphael, PAMI 2001).
 *
 * Every row keeps a list of intervals of columns. A path takes one interval of every row, none wholly left of the one
 * before. With a bound of every row's term in each of its intervals, the best path bounds the optimum from above; the
 * best candidate so far bounds it from below. An interval is dropped when no path through it has a bound as high as the
 * candidate's value; of the rest those with loose bounds are cut. The program over cells solves what is left once that
 * is little.
 *
 * Rows in conflict share a column in the optimum: those above would have more, those below less, and in an interval
 * each takes the end that suits it. Prices (certify.c) take that away, and what is left falls with the square of the
 * width. But where a row stands right of the one above it, the bound adds the price times that distance, which the
 * optimum does not gain: far from the candidate prices make the bound loose. They apply near it only, as far as its
 * rows still rise, or half of that, or a quarter: whichever bound is lowest.
 */
#include "coarse.h"

#include <stdlib.h>
#include <string.h>

/* Intervals take at most so many bytes for each item of the ranking, and LEAST intervals more. */
#define AN_ITEM 64
#define LEAST 65536
/* An interval is cut if its bound is loose by more than this part of gap / rows. */
#define LOOSE 0.25
/* A bound may be exact at one end while the optimum takes the other: this part of the ends' difference is added. */
#define STEEP 1e-3
/* In the time that a level takes for one interval, the program solves about so many cells. */
#define CELLS_AN_INTERVAL 64
/* If a bound is above this part of the last gap, half the reach is tried. */
#define STALLED 0.25
/* A level that leaves more than this part of the gap is slow. Once slow levels have taken as long as the program would
 * for the cells that are left, the program runs. */
#define SLOW 0.5

/* By how much the bound of an interval exceeds what is known to be there. */
static double looseness(const Row *row, const Interval *interval, double most)
{
    const double left = gain_at(row, interval->left), right = gain_at(row, interval->right);
    const int has_candidate = interval->left <= row->at && row->at <= interval->right;
    return most - fmax(fmax(left, right), has_candidate ? 0.0 : -INFINITY) + STEEP * fabs(left - right);
}

/* The best path to every interval; returns the largest of all. */
static double sum_forward(Search *search)
{
    for (int32_t row = 0; row < search->rows; row++) {
        const Row here = row_of(search, row);
        int64_t before = row ? search->from[row - 1] : 0; /* the first row has none */
        double best = row ? -INFINITY : 0.0;
        for (int64_t each = search->from[row]; each < search->from[row + 1]; each++) {
            Interval *interval = &search->intervals[each];
            for (; before < search->from[row] && search->intervals[before].left <= interval->right; before++)
                best = fmax(best, search->intervals[before].sum);
            interval->sum = most_of(&here, interval) + best;
        }
    }
    double top = -INFINITY;
    for (int64_t each = search->from[search->rows - 1]; each < search->from[search->rows]; each++)
        top = fmax(top, search->intervals[each].sum);
    return top;
}

static void keep_if_better(Search *search, const int32_t *path)
{
    double gain = 0.0;
    for (int32_t row = 0; row < search->rows; row++) {
        const Row here = row_of(search, row);
        gain += term_of(here.terms, here.p, here.i, path[row]) - here.base;
    }
    if (gain > search->gain) {
        search->gain = gain;
        memcpy(search->better, path, (size_t)search->rows * sizeof *path);
    }
}

/* Two candidates from the best path: the better ends of its intervals, made non-decreasing; and rows pooled (pool.c)
 * around them, as far as the path has no gap. */
static void try_path(Search *search)
{
    const int32_t first = search->first, columns = search->terms->negatives.count;
    int32_t right = INT32_MAX, end = search->rows - 1, low = INT32_MAX, high = columns;
    for (int32_t row = end; row >= 0; row--) {
        const Row here = row_of(search, row);
        const Interval *best = &search->intervals[search->from[row]];
        const Interval *last = search->intervals + search->from[row + 1] - 1;
        for (const Interval *each = best + 1; each <= last && each->left <= right; each++)
            best = each->sum > best->sum ? each : best;
        right = best->right;
        search->path[row] = gain_at(&here, best->left) >= gain_at(&here, right) ? best->left : right;
        const int64_t width = (int64_t)right - best->left + 1;
        const int64_t least = best->left > width ? best->left - width : 0;
        const int64_t reach = right + width < columns ? right + width : columns;
        if (row < end && reach < low) {
            pool(search->terms, first + row + 1, first + end, low, high, search->pooled - first);
            end = row;
            low = INT32_MAX;
        }
        high = row == end ? (int32_t)reach : high;
        low = least < low ? (int32_t)least : low;
    }
    pool(search->terms, first, first + end, low, high, search->pooled - first);
    for (int32_t row = 1; row < search->rows; row++)
        search->path[row] = search->path[row] < search->path[row - 1] ? search->path[row - 1] : search->path[row];
    keep_if_better(search, search->path);
    keep_if_better(search, search->pooled);
}

/* The lowest bound on what may be gained, its sums, and the best of the candidates met. */
static double lowest_bound(Search *search, double before)
{
    search->gain = 0.0;
    double top = sum_forward(search);
    try_path(search);
    while (top > STALLED * before && search->halvings < 31) {
        search->halvings++;
        const double shorter = sum_forward(search);
        try_path(search);
        if (!(shorter < top)) {
            search->halvings--;
            return sum_forward(search);
        }
        top = shorter;
    }
    return top;
}

static int64_t most_in_a_row(const Search *search)
{
    int64_t most = 0;
    for (int32_t row = 0; row < search->rows; row++)
        most = search->from[row + 1] - search->from[row] > most ? search->from[row + 1] - search->from[row] : most;
    return most;
}

/* Drop every interval whose best path is worse than the best candidate met; the array shrinks to what stays. EMPTY: a
 * row has no interval left, nothing is better than that candidate. */
static int drop(Search *search)
{
    const int64_t count = search->from[search->rows], most = most_in_a_row(search);
    double *sums = malloc(2 * (size_t)most * sizeof *sums); /* of the bounds from here on, and from the row below on */
    if (!sums)
        return FAILED;
    double *here_on = sums, *below_on = sums + most;
    int64_t kept = count, below = 0;
    for (int32_t row = search->rows - 1; row >= 0; row--) {
        const Row here = row_of(search, row);
        const int64_t end = kept;
        int64_t seen = 0; /* of the row below, from the right */
        double best = row == search->rows - 1 ? 0.0 : -INFINITY;
        for (int64_t each = search->from[row + 1] - 1; each >= search->from[row]; each--) {
            Interval interval = search->intervals[each];
            for (; seen < below && search->intervals[end + below - 1 - seen].right >= interval.left; seen++)
                best = fmax(best, below_on[seen]);
            if (interval.sum + best < search->gain - search->rounding)
                continue;
            const double bound = most_of(&here, &interval);
            here_on[end - kept] = bound + best;
            interval.sum = looseness(&here, &interval, bound);
            search->intervals[--kept] = interval;
        }
        if (kept == end) {
            free(sums);
            return EMPTY;
        }
        below = end - kept;
        search->from[row + 1] = end;
        double *other = here_on;
        here_on = below_on;
        below_on = other;
    }
    free(sums);
    memmove(search->intervals, search->intervals + kept, (size_t)(count - kept) * sizeof *search->intervals);
    for (int32_t row = search->rows; row > 0; row--)
        search->from[row] -= kept;
    search->from[0] = 0;
    Interval *shorter = realloc(search->intervals, (size_t)(count - kept) * sizeof *shorter);
    search->intervals = shorter ? shorter : search->intervals;
    return FINER;
}

static int32_t first_column(const Search *search, int32_t row) { return search->intervals[search->from[row]].left; }

static int32_t last_column(const Search *search, int32_t row)
{
    return search->intervals[search->from[row + 1] - 1].right;
}

/* Between the outermost intervals of every row. */
static int64_t count_cells(const Search *search)
{
    int64_t cells = 0;
    for (int32_t row = 0; row < search->rows; row++)
        cells += (int64_t)last_column(search, row) - first_column(search, row) + 1;
    return cells;
}

/* The program over the cells between the outermost intervals of every row, the candidate within: rounding may have
 * dropped its own, and no row must be left without a cell. */
static int solve_cells(const Search *search)
{
    const int32_t rows = search->rows, first = search->first, *candidate = search->candidate;
    int32_t *left = search->path, *right = search->pooled;
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
    return solve_rows(search->terms, first, first + rows - 1, left, right, search->candidate - first);
}

/* How far the term of a row keeps rising on one side of the candidate, in steps that double. */
static int32_t rise_of(const Row *row, int32_t last)
{
    int64_t step = 1;
    if (row->at < last && marginal_of(row->terms, row->p, row->i, row->at + 1) > 0.0)
        while (row->at + step < last && marginal_of(row->terms, row->p, row->i, (int32_t)(row->at + step)) > 0.0)
            step *= 2;
    else
        while (row->at - step > 0 && marginal_of(row->terms, row->p, row->i, (int32_t)(row->at - step)) < 0.0)
            step *= 2;
    return step < INT32_MAX ? (int32_t)step : INT32_MAX;
}

/* Prices for the candidate; rows that share a column share their reach. */
static void set_prices(Search *search)
{
    const int32_t first = search->first, *candidate = search->candidate;
    pay(search->terms, first, first + search->rows - 1, candidate - first, search->paid - first);
    search->rounding = 0.0;
    for (int32_t row = 0, end; row < search->rows; row = end) {
        int32_t reach = 0;
        for (end = row; end < search->rows && candidate[end] == candidate[row]; end++) {
            const Row here = row_of(search, end);
            const int32_t rise = rise_of(&here, last_of(search->terms, first + end));
            reach = rise > reach ? rise : reach;
        }
        for (int32_t each = row; each < end; each++) {
            search->reach[each] = reach;
            const Row here = row_of(search, each);
            const double at = rounding_of(search->terms, here.paid, here.at);
            search->rounding += fmax(at, rounding_of(search->terms, here.paid, here.high));
        }
    }
}

static void take_better(Search *search)
{
    if (search->gain > 0.0) {
        memcpy(search->candidate, search->better, (size_t)search->rows * sizeof *search->candidate);
        set_prices(search);
    }
}

static int refine(Search *search)
{
    int64_t spent = 0; /* cells in whose time slow levels passed */
    double gap = 0.0;
    for (;;) {
        const double before = gap, top = lowest_bound(search, before);
        if (!(top > search->rounding))
            return 0;
        gap = top - search->gain;
        const int done = gap > search->rounding ? drop(search) : EMPTY;
        take_better(search);
        if (done != FINER)
            return done == EMPTY ? 0 : -1;
        const int64_t level = CELLS_AN_INTERVAL * search->from[search->rows];
        spent += before > 0.0 && gap > SLOW * before ? level : 0;
        if (count_cells(search) <= level + spent)
            return solve_cells(search);
        switch (cut(search, LOOSE * gap / search->rows)) {
        case FAILED:
            return -1;
        case SINGLE: /* without prices the best path is the optimum */
            search->halvings = 31;
            lowest_bound(search, 0.0);
            take_better(search);
            return 0;
        case FULL:
            return solve_cells(search);
        }
    }
}

/* The optimum of rows first..last, given a candidate; `paid` is overwritten. */
int coarse_to_fine(const Terms *terms, int32_t first, int32_t last, int32_t *a, double *paid)
{
    const size_t rows = (size_t)last - first + 1, a_row = sizeof(int64_t) + 4 * sizeof(int32_t);
    int64_t *from = calloc(rows * a_row + sizeof *from, 1);
    if (!from)
        return -1;
    int32_t *columns = (int32_t *)(from + rows + 1);
    const int64_t items = (int64_t)terms->rows + terms->negatives.count;
    const int64_t room = AN_ITEM * items - (int64_t)(a_row * rows);
    Search search = {.terms = terms,
                     .first = first,
                     .rows = (int32_t)rows,
                     .candidate = a + first,
                     .paid = paid + first,
                     .reach = columns,
                     .better = columns + rows,
                     .path = columns + 2 * rows,
                     .pooled = columns + 3 * rows,
                     .from = from,
                     .most = room / (int64_t)sizeof(Interval) + LEAST};
    set_prices(&search);
    const int failed = start(&search) == FAILED || refine(&search);
    free(search.intervals);
    free(from);
    return failed ? -1 : 0;
}
