/* Precision and recall at k: a row costs nothing or all there is, so that no more is to be chosen than how many rows
 * are among the first k items.
 *
 * If c are, they have at most t = k - c negatives above them, the others at least as many; and each row has, within
 * that, what suits its score. So the rows between the c-th and the last with fewer than t negatives above it move to t,
 * and no others move.
 */
#include "terms.h"

#include <math.h>
#include <stdlib.h>

int top_update(const Terms *terms, int32_t *a)
{
    const int32_t rows = terms->rows, columns = terms->negatives.count, *lo = terms->lo;
    const int64_t k = (int64_t)terms->cutoff;
    const int32_t most = k < rows ? (int32_t)k : rows;
    double *p = malloc(2 * ((size_t)rows + 1) * sizeof *p), *standard = p + rows + 1; /* sums of the rows before */
    if (!p)
        return -1;
    p[0] = standard[0] = 0.0;
    for (int32_t row = 0; row < rows; row++) {
        p[row + 1] = p[row] + (terms->p[row] - terms->centre);
        standard[row + 1] = standard[row] + standard_of(terms, terms->p[row], lo[row]);
    }
    double best = -INFINITY;
    int32_t chosen = 0, place = 0, below = rows; /* rows with at most t negatives above them */
    for (int32_t c = 0; c <= most; c++) {
        const int32_t t = k - c < columns ? (int32_t)(k - c) : columns;
        if (k - c > columns && c < rows)
            continue; /* the next row would be among the first k, too */
        while (below > 0 && lo[below - 1] > t)
            below--;
        const int32_t from = c < below ? c : below, to = c < below ? below : c;
        const double moved = (to - from) * terms->sum[t] - t * (p[to] - p[from]) - (standard[to] - standard[from]);
        const double value = moved + terms->task * (most - c);
        if (value > best) {
            best = value;
            chosen = c;
            place = t;
        }
    }
    free(p);
    for (int32_t row = 0; row < rows; row++)
        a[row] = (row < chosen) == (lo[row] < place) ? lo[row] : place;
    return 0;
}
