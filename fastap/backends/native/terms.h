/* One sorted ranking as terms of a sum, and the ways to its largest value:
 *
 *     g_i(a) = S[a] - a p_i + task c_i(a)              (S and p_i both less the centre)
 *     d_i(a) = g_i(a) - g_i(a - 1) = (n_a - p_i) + task (c_i(a) - c_i(a - 1))
 *
 * c_i(a) is what the measure takes off for `a` negatives above row i, of AP a / (i + a): 0 at 0, rising by at most 1 a
 * place, ever slower; but to the most there is at once where i + a passes the cutoff, if there is one. Row i, counted
 * from 1, is the i-th positive and chooses a, the number of negatives above it. Sums are double. What returns an int
 * returns 0, or -1 where memory ran out.
 */
#ifndef FASTAP_TERMS_H
#define FASTAP_TERMS_H

#include "parallel.h"
#include "sort.h"

#include <float.h>
#include <math.h>

/* In the order of types.MEASURES. */
enum { AVERAGE_PRECISION, NDCG, PRECISION, RECALL, RECIPROCAL_RANK, AUC, PARTIAL_AUC, BEDROC };

typedef struct {
    Sorted negatives;
    const double *sum;    /* [negatives + 1] S[a], of the best a negatives, each less the centre */
    const double *p;      /* [rows] the positives, descending */
    const int32_t *lo;    /* [rows] #{n > p_i} */
    const int32_t *hi;    /* [rows] #{n >= p_i} */
    int32_t rows;
    double centre; /* a common offset of the scores costs the sums no digits */
    double task;   /* s epsilon P N / 2 / best, s the sign of what is solved */
    double best;   /* the loss is lowest + sum_i c_i(a_i) / best */
    double lowest;
    double cutoff; /* the rank up to which positives count, or INFINITY */
    double most;   /* of PARTIAL_AUC and AUC, where c_i stops rising */
    const double *discount; /* of NDCG and BEDROC, of each rank from 0 on; c_i(a) is that of i less that of i + a */
    int measure;
    int threads;   /* for this ranking */
} Terms;

static inline double standard_of(const Terms *terms, double score, int32_t a)
{
    return terms->sum[a] - a * (score - terms->centre);
}

static inline double cost_of(const Terms *terms, double i, int32_t a)
{
    if (i + a > terms->cutoff) {
        const int counts = i <= terms->cutoff && (terms->measure != RECIPROCAL_RANK || i == 1.0);
        return !counts ? 0.0 : terms->discount ? terms->discount[(int32_t)i] : 1.0;
    }
    if (terms->measure == AVERAGE_PRECISION)
        return a / (i + a);
    if (terms->discount)
        return terms->discount[(int32_t)i] - terms->discount[(int64_t)i + a];
    if (terms->measure == RECIPROCAL_RANK)
        return i == 1.0 ? a / (1.0 + a) : 0.0;
    return a < terms->most ? a : terms->most; /* 0 of PRECISION and RECALL */
}

/* c_i(a) - c_i(a - 1) */
static inline double rise_of_cost(const Terms *terms, double i, int32_t a)
{
    if (i + a > terms->cutoff)
        return cost_of(terms, i, a) - cost_of(terms, i, a - 1);
    if (terms->measure == AVERAGE_PRECISION || (terms->measure == RECIPROCAL_RANK && i == 1.0))
        return i / ((i + a) * (i + a - 1.0));
    if (terms->discount)
        return terms->discount[(int64_t)i + a - 1] - terms->discount[(int64_t)i + a];
    const double left = terms->most - (a - 1.0); /* below 0 of all others */
    return left >= 1.0 ? 1.0 : left > 0.0 ? left : 0.0;
}

static inline double term_of(const Terms *terms, double score, double i, int32_t a)
{
    return standard_of(terms, score, a) + terms->task * cost_of(terms, i, a);
}

static inline double marginal_of(const Terms *terms, double score, double i, int32_t a)
{
    return (score_at(terms->negatives, a - 1) - score) + terms->task * rise_of_cost(terms, i, a);
}

/* The last place of row i before its cost jumps, or -1. */
static inline int32_t before_jump(const Terms *terms, double i, int32_t last)
{
    return terms->cutoff - i < last ? (int32_t)(terms->cutoff < i ? -1.0 : terms->cutoff - i) : -1;
}

/* The most negatives that may stand above a row: none that score less, where more of them cost more. */
static inline int32_t last_of(const Terms *terms, int32_t row)
{
    return terms->task > 0.0 ? terms->negatives.count : terms->hi[row];
}

/* A bound on the rounding of g_i(a): that of its largest part. */
static inline double rounding_of(const Terms *terms, double score, int32_t a)
{
    double parts = fabs(standard_of(terms, score, a)) + fabs(a * (score - terms->centre)) + fabs(terms->task) * fmax(1.0, terms->most);
    return 8 * DBL_EPSILON * parts;
}

/* search.c: each row alone */
typedef struct {
    int32_t a;
    double value;
} Choice;

void search_rows(const Terms *terms, int32_t *a); /* for the sign of the task */
Choice argmax(const Terms *terms, double score, double i, int32_t last, int32_t hint);
double most_inside(const Terms *terms, double score, double i, int32_t left, int32_t right);

/* coarse.c: the optimum of rows first..last, given a candidate; `paid`, of all rows, is overwritten */
int coarse_to_fine(const Terms *terms, int32_t first, int32_t last, int32_t *a, double *paid);

/* program.c: the dynamic program on rows first..last, row first + k within left[k]..right[k], both non-decreasing */
int solve_rows(const Terms *terms, int32_t first, int32_t last, const int32_t *left, const int32_t *right, int32_t *a);

int full_program(const Terms *terms, int32_t *a, Watch *watch); /* over every cell */

/* top.c: measures that count who is among the first k */
int top_update(const Terms *terms, int32_t *a);

/* pool.c: rows in conflict, one value a block */
int in_order(const Terms *terms, const int32_t *a);
void merge_conflicts(const Terms *terms, const int32_t *a, unsigned char *starts, int32_t *lowest_after);
void pool(const Terms *terms, int32_t first, int32_t last, int32_t low, int32_t high, int32_t *a);
void pool_block(const Terms *terms, int32_t first, int32_t last, int32_t *a);
int32_t end_of_block(const Terms *terms, const unsigned char *starts, int32_t first);
int concave_update(const Terms *terms, int32_t *a, Watch *watch);

/* certify.c: pooled blocks that are proved to be the optimum, or else solved; scores of rows first..last with prices */
void pay(const Terms *terms, int32_t first, int32_t last, const int32_t *a, double *paid);
int any_update(const Terms *terms, int32_t *a, Watch *watch);

#endif
