/* A batch of rankings, what is asked of it, and one ranking on its way from scores to results. */
#ifndef FASTAP_BATCH_H
#define FASTAP_BATCH_H

#include "terms.h"

typedef struct {
    const void *scores;
    int wide; /* double, or else float */
    const void *targets;
    int64_t distinct; /* targets; where scores are more, they serve the next as many again */
    int type;         /* of the targets, see split.c */
    int ignores;
    int64_t ignored; /* the target of items that take no part, where `ignores` */
    int64_t rankings, items; /* items of each, where there are no offsets */
    const int64_t *offsets;  /* [rankings + 1] where each begins, and the end; or null */
    int threads;
} Batch;

/* y*, argmax F, argmax F + epsilon L, argmax F - epsilon L, and none, of SmoothAP; the order is that of
 * __init__._RANKINGS. */
enum { PERFECT, BY_SCORE, MORE_LOSS, LESS_LOSS, SMOOTH };

/* A difference of two of them, as in fastap/types.py; LESS_LOSS is second only where MORE_LOSS is first. */
typedef struct {
    int first, second;
    int full; /* the program over every cell */
    double epsilon, gain, task_weight, ceiling;
    int measure;
    double parameter; /* of the measure, see types.Measure */
    int64_t k;        /* of the measure, 0 for none */
} Objective;

static inline double sign_of(int ranking) { return ranking == LESS_LOSS ? -1.0 : 1.0; }

typedef struct {
    void *loss; /* double if loss_wide, or else float */
    int loss_wide;
    void *gradient; /* like the scores */
    unsigned char *takes_part;
    int64_t *ranks;
    double *value;
} Output; /* what is null is not asked for */

/* AP by the scores alone. */
typedef struct {
    const void *weight; /* of the items, or null where each weighs 1 */
    int wide;           /* double, or else float */
    int64_t best;       /* only so many of the best take part, and all that tie with the last of them; all where 0 */
    double *precision;
    double *positives, *negatives; /* what the classes weigh; or null */
} Measure;

enum { SOLVED, WRONG_TARGET, NO_MEMORY };

/* batch.c: an objective's output, or a measure */
int solve_batch(const Batch *batch, const Objective *objective, const Output *output, Watch *watch);
int measure_batch(const Batch *batch, const Measure *measure);

/* One ranking and its work space: 17 bytes a float score, 33 a double, and 12 a positive. */
enum { NEGATIVE, POSITIVE, IGNORED, WRONG, CLASSES };

typedef struct {
    int64_t start, items; /* where it begins in the batch, and its length */
    unsigned char *class; /* [items] */
    char *memory;         /* of all that follows */
    size_t size;
    int threads; /* for this ranking */
    Sorted positives, negatives;
    double *p, *sum;      /* [positives], [negatives + 1] */
    int32_t *lo, *hi, *a; /* [positives]; `a` is the first ranking's choice */
    int32_t *b;           /* in the place of hi, the second's, where it has one */
    void *near;           /* scores whose gaps have been cut, where they must be */
    double *discount;     /* [of_discount] */
    int64_t of_discount, discounted; /* `discounted`: of which length the ranking was */
} Ranking;

static inline int takes_part(const Ranking *ranking) { return ranking->positives.count && ranking->negatives.count; }

static inline void share(const Ranking *ranking, int64_t steps, Task *task, void *work)
{
    in_parts(ranking->threads, parts_for(steps, ranking->threads), task, work);
}

/* split.c: two sorted classes, what stands above what, and prefix sums */
int split_ranking(const Batch *batch, Ranking *ranking); /* p and all but sum, lo, hi and a */
int32_t count_above(Sorted negatives, int32_t from, double score, int level);
void count_negatives(Ranking *ranking); /* lo and hi */
int terms_of(Ranking *ranking, const Objective *objective, Terms *terms);
int cut_gaps(Ranking *ranking, Terms *terms);

/* output.c: of one ranking that has been solved */
typedef struct {
    int solved;        /* 0 where there is nothing to solve or a sum would overflow */
    Terms terms, near; /* `near` are those that were solved, of scores less the gaps between them where these are too large */
} Solution;

static inline void put_gradient(void *gradient, int wide, int64_t item, double value)
{
    if (wide)
        ((double *)gradient)[item] = value;
    else
        ((float *)gradient)[item] = (float)value;
}

/* Infinities and NaN sort to the ends. */
static inline int is_finite(Sorted sorted)
{
    return isfinite(score_at(sorted, 0)) && isfinite(score_at(sorted, sorted.count - 1));
}

void fill_constant(const Batch *batch, const Ranking *ranking, double taken, void *gradient); /* 0 where ignored */
void put_loss(const Output *output, int64_t line, double loss, int takes_part);
void write_losses(const Batch *batch, const Objective *objective, const Output *output, int64_t line,
                  const Ranking *ranking, const Solution *solution);
void write_ranks(const Objective *objective, const Output *output, int64_t line, const Ranking *ranking,
                 const Solution *solution);
int write_smooth(const Batch *batch, const Objective *objective, const Output *output, int64_t line, Ranking *ranking);
void write_precision(const Measure *measure, int64_t line, Ranking *ranking);

#endif
