/* Loss-augmented inference: from the best choice of each row alone to the best non-decreasing one.
 *
 * The sum of the optima of any blocks of rows bounds the optimum from above, so blocks whose optima, side by side, do
 * not decrease are the optimum. Where rows conflict, neighbouring blocks are merged and solved as one.
 */
#include "ranking.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#define ULPS (8 * DBL_EPSILON)

static int in_order(const Terms *terms, const int32_t *a)
{
    for (int32_t row = 1; row < terms->rows; row++)
        if (a[row] < a[row - 1])
            return 0;
    return 1;
}

/* Merge blocks until all before a cut choose at most what all after it choose. starts[row] says whether a block starts
 * there; blocks are never split. */
static void merge_conflicts(const Terms *terms, const int32_t *a, unsigned char *starts, int32_t *lowest_after)
{
    const int32_t rows = terms->rows;
    lowest_after[rows - 1] = a[rows - 1];
    for (int32_t row = rows - 2; row >= 0; row--)
        lowest_after[row] = a[row] < lowest_after[row + 1] ? a[row] : lowest_after[row + 1];
    int32_t highest = a[0];
    for (int32_t row = 1; row < rows; row++) {
        starts[row] &= highest <= lowest_after[row];
        highest = a[row] > highest ? a[row] : highest;
    }
}

/* The best non-decreasing a in [low, high] of rows first..last, for terms that are concave there. By value: the rows
 * that choose a >= t are those from the cut on whose marginals d_i(t) sum to the most. */
static void pool(const Terms *terms, int32_t first, int32_t last, int32_t low, int32_t high, int32_t *a)
{
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2, cut = first;
        double before = 0.0, lowest = 0.0;
        for (int32_t row = first; row <= last; row++) {
            if (before <= lowest) { /* the last of equal cuts: fewest rows rise, as in the search of one row */
                lowest = before;
                cut = row;
            }
            before += marginal_of(terms, terms->p[row], row + 1.0, middle);
        }
        if (!(lowest < before)) {
            high = middle - 1;
            continue;
        }
        if (cut > first)
            pool(terms, first, cut - 1, low, middle - 1, a);
        first = cut;
        low = middle;
    }
    for (int32_t row = first; row <= last; row++)
        a[row] = low;
}

static void pool_block(const Terms *terms, int32_t first, int32_t last, int32_t *a)
{
    int32_t low = a[first], high = a[first];
    for (int32_t row = first + 1; row <= last; row++) {
        low = a[row] < low ? a[row] : low;
        high = a[row] > high ? a[row] : high;
    }
    pool(terms, first, last, low, high, a);
}

static int32_t end_of_block(const Terms *terms, const unsigned char *starts, int32_t first)
{
    int32_t last = first;
    while (last + 1 < terms->rows && !starts[last + 1])
        last++;
    return last;
}

static int32_t end_of_level(const int32_t *a, int32_t first, int32_t last)
{
    int32_t end = first;
    while (end < last && a[end + 1] == a[first])
        end++;
    return end;
}

int positive_update(const Terms *terms, int32_t *a, Watch *watch)
{
    const int32_t rows = terms->rows;
    search_rows(terms, a);
    lap(watch, STAGE_SEARCH);
    if (in_order(terms, a))
        return 0;
    int32_t *lowest_after = malloc((size_t)rows * (sizeof *lowest_after + 1));
    if (!lowest_after)
        return -1;
    unsigned char *starts = (unsigned char *)(lowest_after + rows);
    memset(starts, 1, (size_t)rows);
    merge_conflicts(terms, a, starts, lowest_after);
    for (int32_t first = 0, last; first < rows; first = last + 1) {
        last = end_of_block(terms, starts, first);
        if (last > first)
            pool_block(terms, first, last, a);
    }
    free(lowest_after);
    lap(watch, STAGE_REPAIR);
    return 0;
}

/* What the rows of a block need while it is proved. */
typedef struct {
    double *paid;      /* p_i less the price: what a row's score is when it is paid for every negative above it */
    double *bound;     /* the most that its paid term reaches */
    double *shortfall; /* of its paid term at a_i */
    double *rounding;
    int32_t *favourite; /* where the paid term is largest */
    int32_t *left, *right;
} Proof;

/* Lagrange prices. With multipliers l_i >= 0 for a_i <= a_{i+1}, the sum of the maxima of g_i(a) + (l_{i-1} - l_i) a
 * bounds the block's optimum from above. l_i is as large as the marginals of the rows above it in its level set allow,
 * and those below it; for concave terms the bound is then attained. */
static void pay(const Terms *terms, int32_t first, int32_t last, const int32_t *a, double *paid)
{
    double below = 0.0; /* minus the sum of what one more negative is worth to rows first + 1..last */
    for (int32_t row = last; row >= first; row--) {
        int32_t more = a[row] < terms->negatives.count ? a[row] + 1 : a[row];
        double rise = marginal_of(terms, terms->p[row], row + 1.0, more);
        paid[row] = below;
        below -= a[row] < terms->negatives.count ? rise : fmin(rise, 0.0);
    }
    double above = 0.0, multiplier_before = 0.0;
    for (int32_t row = first; row <= last; row++) {
        double fall = marginal_of(terms, terms->p[row], row + 1.0, a[row] ? a[row] : 1);
        above += a[row] ? fall : fmax(fall, 0.0);
        double multiplier = row == last ? 0.0 : fmax(fmin(above, paid[row]), 0.0);
        paid[row] = terms->p[row] + multiplier - multiplier_before;
        multiplier_before = multiplier;
    }
}

/* The optimum of rows first..last, given in a the one they have if their terms are concave where it matters. */
static int prove_or_solve(const Terms *terms, int32_t first, int32_t last, int32_t *a, const Proof *proof)
{
    for (int32_t row = first, end; row <= last; row = end + 1) {
        end = end_of_level(a, row, last);
        for (int32_t each = row; each <= end; each++) /* never worse for any row, and still non-decreasing */
            a[each] = a[each] < terms->hi[each] ? a[each] : terms->hi[each];
        pay(terms, row, end, a, proof->paid);
    }
    double slack = 0.0;
    int proved = 1;
    for (int32_t row = first; row <= last; row++) {
        double paid = proof->paid[row], i = row + 1.0;
        Choice best = argmax(terms, paid, i, terms->hi[row], a[row]);
        double shortfall = fmax(best.value - term_of(terms, paid, i, a[row]), 0.0);
        /* Rounding of g is that of its largest part. */
        double rounding = ULPS * (fabs(standard_of(terms, paid, a[row])) + fabs(a[row] * (paid - terms->centre)) +
                                  fabs(terms->task));
        proof->favourite[row] = best.a;
        proof->bound[row] = best.value;
        proof->shortfall[row] = shortfall;
        proof->rounding[row] = rounding;
        proved &= shortfall <= rounding;
        slack += shortfall;
    }
    if (proved)
        return 0;
    /* In an optimum no row falls short of its bound by more than the block as a whole does now. */
    for (int32_t row = first; row <= last; row++)
        band(terms, proof->paid[row], row + 1.0, terms->hi[row], proof->favourite[row],
             proof->bound[row] - slack - proof->rounding[row], &proof->left[row], &proof->right[row]);
    for (int32_t row = first + 1; row <= last; row++)
        if (proof->left[row] < proof->left[row - 1])
            proof->left[row] = proof->left[row - 1];
    for (int32_t row = last - 1; row >= first; row--)
        if (proof->right[row] > proof->right[row + 1])
            proof->right[row] = proof->right[row + 1];
    for (int32_t row = first; row <= last; row++) /* cannot be, but for sums that overflow */
        if (proof->left[row] > proof->right[row])
            return 0;
    return solve_rows(terms, first, last, proof->left, proof->right, a);
}

/* Blocks that grew: pooling cuts a block into level sets, which are tried first, each as a block of its own; those whose
 * optima meet their neighbours are merged for good and solved again. */
static int solve_conflicts(const Terms *terms, int32_t *a, unsigned char *starts, unsigned char *were,
                           int32_t *lowest_after, const Proof *proof)
{
    const int32_t rows = terms->rows;
    for (int first_round = 1; !in_order(terms, a); first_round = 0) {
        memcpy(were, starts, (size_t)rows);
        merge_conflicts(terms, a, starts, lowest_after);
        for (int32_t first = 0, last; first < rows; first = last + 1) {
            last = end_of_block(terms, starts, first);
            int grew = 0;
            for (int32_t row = first + 1; row <= last && !grew; row++)
                grew = were[row];
            if (!grew)
                continue;
            pool_block(terms, first, last, a);
            for (int32_t from = first, to; from <= last; from = to + 1) {
                to = first_round ? end_of_level(a, from, last) : last;
                starts[from] = 1;
                if (prove_or_solve(terms, from, to, a, proof))
                    return -1;
            }
        }
    }
    return 0;
}

int negative_update(const Terms *terms, int32_t *a, Watch *watch)
{
    const int32_t rows = terms->rows;
    search_rows(terms, a);
    lap(watch, STAGE_SEARCH);
    if (in_order(terms, a))
        return 0;
    const size_t count = (size_t)rows;
    char *memory = malloc(count * (4 * sizeof(double) + 4 * sizeof(int32_t) + 2));
    if (!memory)
        return -1;
    double *reals = (double *)memory;
    int32_t *integers = (int32_t *)(reals + 4 * count);
    unsigned char *starts = (unsigned char *)(integers + 4 * count);
    Proof proof = {reals, reals + count, reals + 2 * count, reals + 3 * count,
                   integers, integers + count, integers + 2 * count};
    memset(starts, 1, (size_t)rows);
    int failed = solve_conflicts(terms, a, starts, starts + count, integers + 3 * count, &proof);
    free(memory);
    lap(watch, STAGE_REPAIR);
    return failed;
}

/* The dynamic program over every cell: it asks nothing of the terms, nor of their sign. */
int full_program(const Terms *terms, int32_t *a, Watch *watch)
{
    const size_t rows = (size_t)terms->rows;
    int32_t *bounds = malloc(2 * rows * sizeof *bounds);
    if (!bounds)
        return -1;
    for (size_t row = 0; row < rows; row++) {
        bounds[row] = 0;
        bounds[rows + row] = terms->negatives.count;
    }
    int failed = solve_rows(terms, 0, terms->rows - 1, bounds, bounds + rows, a);
    free(bounds);
    lap(watch, STAGE_REPAIR);
    return failed;
}
