/* One sorted ranking as terms of a sum, and the ways to its largest value:
 *
 *     g_i(a) = S[a] - a p_i + task a / (i + a)         (S and p_i both less the centre)
 *     d_i(a) = g_i(a) - g_i(a - 1) = (n_a - p_i) + task i / ((i + a)(i + a - 1))
 *
 * Row i, counted from 1, is the i-th positive and chooses a, the number of negatives above it. Sums are double. What
 * returns an int returns 0, or -1 where memory ran out.
 */
#ifndef FASTAP_TERMS_H
#define FASTAP_TERMS_H

#include "parallel.h"
#include "sort.h"

#include <float.h>
#include <math.h>

typedef struct {
    Sorted negatives;
    const double *sum;    /* [negatives + 1] S[a], of the best a negatives, each less the centre */
    const double *p;      /* [rows] the positives, descending */
    const int32_t *lo;    /* [rows] #{n > p_i} */
    const int32_t *hi;    /* [rows] #{n >= p_i} */
    int32_t rows;
    double centre; /* a common offset of the scores costs the sums no digits */
    double task;   /* s epsilon N / 2, s the sign of what is solved */
    int threads;   /* for this ranking */
} Terms;

static inline double standard_of(const Terms *terms, double score, int32_t a)
{
    return terms->sum[a] - a * (score - terms->centre);
}

static inline double task_loss(double i, int32_t a) { return a / (i + a); }

static inline double term_of(const Terms *terms, double score, double i, int32_t a)
{
    return standard_of(terms, score, a) + terms->task * task_loss(i, a);
}

static inline double marginal_of(const Terms *terms, double score, double i, int32_t a)
{
    double below = i + a;
    return (score_at(terms->negatives, a - 1) - score) + terms->task * i / (below * (below - 1.0));
}

/* A bound on the rounding of g_i(a): that of its largest part. */
static inline double rounding_of(const Terms *terms, double score, int32_t a)
{
    double parts = fabs(standard_of(terms, score, a)) + fabs(a * (score - terms->centre)) + fabs(terms->task);
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

/* pool.c: rows in conflict, one value a block */
int in_order(const Terms *terms, const int32_t *a);
void merge_conflicts(const Terms *terms, const int32_t *a, unsigned char *starts, int32_t *lowest_after);
void pool(const Terms *terms, int32_t first, int32_t last, int32_t low, int32_t high, int32_t *a);
void pool_block(const Terms *terms, int32_t first, int32_t last, int32_t *a);
int32_t end_of_block(const Terms *terms, const unsigned char *starts, int32_t first);
int positive_update(const Terms *terms, int32_t *a, Watch *watch);

/* certify.c: pooled blocks that are proved to be the optimum, or else solved; scores of rows first..last with prices */
void pay(const Terms *terms, int32_t first, int32_t last, const int32_t *a, double *paid);
int negative_update(const Terms *terms, int32_t *a, Watch *watch);

#endif
