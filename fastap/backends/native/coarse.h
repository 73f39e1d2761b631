/* What coarse.c and cut.c share: intervals of columns, and what a row gains in them. */
#ifndef FASTAP_COARSE_H
#define FASTAP_COARSE_H

#include "terms.h"

typedef struct {
    int32_t left, right; /* columns */
    double sum;          /* of the bounds on the best path to here; after drop() how loose the bound is */
} Interval;

typedef struct {
    const Terms *terms;
    int32_t first, rows;
    int32_t *candidate; /* [rows], as all below */
    double *paid;       /* the score of every row with its price */
    int32_t *reach;     /* how far from the candidate prices apply, halved `halvings` times */
    int halvings;
    int32_t *better, *path, *pooled; /* a better candidate if gain > 0, and two to be tried */
    double gain, rounding;
    Interval *intervals;
    int64_t *from; /* [rows + 1] where the intervals of a row begin */
    int64_t most;  /* intervals at any time */
} Search;

/* The gain of a row over the candidate, g_i(a) - g_i(at), less price * (a - at); there a is clipped to [low, high]. */
typedef struct {
    const Terms *terms;
    double p, paid, i, base;
    int32_t at, low, high;
} Row;

static inline Row row_of(const Search *search, int32_t row)
{
    const Terms *terms = search->terms;
    const int32_t place = search->first + row, last = terms->negatives.count;
    const int32_t at = search->candidate[row], reach = search->reach[row] >> search->halvings;
    const double p = terms->p[place], i = place + 1.0, base = term_of(terms, p, i, at);
    const int32_t low = reach < at ? at - reach : 0, high = reach < last - at ? at + reach : last;
    return (Row){terms, p, search->paid[row], i, base, at, low, high};
}

static inline double gain_at(const Row *row, int32_t a)
{
    const int32_t within = a < row->low ? row->low : a > row->high ? row->high : a;
    return term_of(row->terms, row->p, row->i, a) - row->base - (row->paid - row->p) * (within - row->at);
}

/* The most that a row gains in an interval, or a little more. */
static inline double most_of(const Row *row, const Interval *interval)
{
    const int32_t left = interval->left, right = interval->right, low = row->low, high = row->high;
    const double price = row->paid - row->p;
    double most = -INFINITY;
    if (left <= high && right >= low) {
        const int32_t from = left > low ? left : low, to = right < high ? right : high;
        most = price * row->at + most_inside(row->terms, row->paid, row->i, from, to);
    }
    if (left < low) {
        const int32_t to = right < low ? right : low;
        most = fmax(most, price * (row->at - low) + most_inside(row->terms, row->p, row->i, left, to));
    }
    if (right > high) {
        const int32_t from = left > high ? left : high;
        most = fmax(most, price * (row->at - high) + most_inside(row->terms, row->p, row->i, from, right));
    }
    return most - row->base;
}

enum { FAILED = -1, FINER, EMPTY, SINGLE, FULL };

/* cut.c: the first intervals, and finer ones of what is left; FAILED where memory ran out, SINGLE where all are of one
 * column, FULL where there is no room for more */
int start(Search *search);
int cut(Search *search, double loose);

#endif
