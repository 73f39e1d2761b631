/* Is the value of a pooled block its optimum? Prices prove it. */
#include "terms.h"

#include <math.h>
#include <stdlib.h>

static int32_t end_of_level(const int32_t *a, int32_t first, int32_t last)
{
    int32_t end = first;
    while (end < last && a[end + 1] == a[first])
        end++;
    return end;
}

/* Lagrange prices. With multipliers l_i >= 0 for a_i <= a_{i+1}, the sum of the maxima of g_i(a) + (l_{i-1} - l_i) a
 * bounds the block's optimum from above: a row is paid for every negative above it, as if its score were
 * paid[i] = p_i + l_i - l_{i-1}. l_i is as large as the marginals of the rows above it in its level set allow, and
 * those below it; for concave terms the bound is then attained. */
static void pay_level(const Terms *terms, int32_t first, int32_t last, const int32_t *a, double *paid)
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
        paid[row] = terms->p[row] + (multiplier - multiplier_before); /* so they sum to nothing, whatever p is */
        multiplier_before = multiplier;
    }
}

void pay(const Terms *terms, int32_t first, int32_t last, const int32_t *a, double *paid)
{
    for (int32_t row = first, end; row <= last; row = end + 1) {
        end = end_of_level(a, row, last);
        pay_level(terms, row, end, a, paid);
    }
}

/* The optimum of rows first..last, given in a the one they have if their terms are concave where it matters. */
static int certify_or_solve(const Terms *terms, int32_t first, int32_t last, int32_t *a, double *paid)
{
    for (int32_t row = first; row <= last; row++) /* never worse for any row, and still non-decreasing */
        a[row] = a[row] < last_of(terms, row) ? a[row] : last_of(terms, row);
    pay(terms, first, last, a, paid);
    for (int32_t row = first; row <= last; row++) {
        Choice best = argmax(terms, paid[row], row + 1.0, last_of(terms, row), a[row]);
        if (best.value - term_of(terms, paid[row], row + 1.0, a[row]) > rounding_of(terms, paid[row], a[row]))
            return coarse_to_fine(terms, first, last, a, paid);
    }
    return 0;
}

/* Blocks that grew: pooling cuts a block into level sets, which are tried first, each as a block of its own; those
 * whose optima meet their neighbours are merged for good and solved again. */
static int solve_conflicts(const Terms *terms, int32_t *a, unsigned char *starts, unsigned char *were,
                           int32_t *lowest_after, double *paid)
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
                if (certify_or_solve(terms, from, to, a, paid))
                    return -1;
            }
        }
    }
    return 0;
}

int any_update(const Terms *terms, int32_t *a, Watch *watch)
{
    const int32_t rows = terms->rows;
    search_rows(terms, a);
    lap(watch, STAGE_SEARCH);
    if (in_order(terms, a))
        return 0;
    const size_t count = (size_t)rows;
    double *paid = malloc(count * (sizeof *paid + sizeof(int32_t) + 2));
    if (!paid)
        return -1;
    int32_t *lowest_after = (int32_t *)(paid + count);
    unsigned char *starts = (unsigned char *)(lowest_after + count);
    memset(starts, 1, (size_t)rows);
    int failed = solve_conflicts(terms, a, starts, starts + count, lowest_after, paid);
    free(paid);
    lap(watch, STAGE_REPAIR);
    return failed;
}
