/* Rows in conflict: neighbouring blocks are merged and solved as one, by value.
 *
 * The sum of the optima of any blocks of rows bounds the optimum from above, so blocks whose optima, side by side, do
 * not decrease are the optimum.
 */
#include "terms.h"

#include <stdlib.h>

int in_order(const Terms *terms, const int32_t *a)
{
    for (int32_t row = 1; row < terms->rows; row++)
        if (a[row] < a[row - 1])
            return 0;
    return 1;
}

/* Merge blocks until all before a cut choose at most what all after it choose. starts[row] says whether a block starts
 * there; blocks are never split. */
void merge_conflicts(const Terms *terms, const int32_t *a, unsigned char *starts, int32_t *lowest_after)
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
void pool(const Terms *terms, int32_t first, int32_t last, int32_t low, int32_t high, int32_t *a)
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

void pool_block(const Terms *terms, int32_t first, int32_t last, int32_t *a)
{
    int32_t low = a[first], high = a[first];
    for (int32_t row = first + 1; row <= last; row++) {
        low = a[row] < low ? a[row] : low;
        high = a[row] > high ? a[row] : high;
    }
    pool(terms, first, last, low, high, a);
}

int32_t end_of_block(const Terms *terms, const unsigned char *starts, int32_t first)
{
    int32_t last = first;
    while (last + 1 < terms->rows && !starts[last + 1])
        last++;
    return last;
}

int concave_update(const Terms *terms, int32_t *a, Watch *watch)
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
