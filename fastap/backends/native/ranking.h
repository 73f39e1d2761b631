/* One ranking, sorted, and what is asked of it. Formulas and names are those of fastap/backends/torch/terms.py:
 *
 *     g_i(a) = S[a] - a p_i + task a / (i + a)         (S and p_i both less the centre)
 *     d_i(a) = g_i(a) - g_i(a - 1) = (n_a - p_i) + task i / ((i + a)(i + a - 1))
 *
 * Row i, counted from 1, is the i-th positive and chooses a, the number of negatives above it. Sums are double.
 */
#ifndef FASTAP_RANKING_H
#define FASTAP_RANKING_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Records: a score and the item that has it. The keys of scores ascend where scores descend and are equal where scores
 * are; NaN comes first or last, by its sign. A float and its item fit 64 bits, the score in the high half. */
typedef uint64_t Narrow;
typedef struct {
    uint64_t key, item;
} Wide;

/* Bits of a score to its key and back: those of positive scores, less the sign, turn over. No branch, which would be
 * wrong half the time. */
static inline uint32_t turn_narrow(uint32_t bits) { return bits ^ (((bits >> 31) - 1) & INT32_MAX); }
static inline uint64_t turn_wide(uint64_t bits) { return bits ^ (((bits >> 63) - 1) & INT64_MAX); }

static inline Narrow narrow_record(float score, int64_t item)
{
    uint32_t bits;
    score += 0.0f; /* -0.0 equals 0.0 */
    memcpy(&bits, &score, sizeof bits);
    return (uint64_t)turn_narrow(bits) << 32 | (uint32_t)item;
}

static inline double narrow_score(Narrow record)
{
    float score;
    uint32_t bits = turn_narrow((uint32_t)(record >> 32));
    memcpy(&score, &bits, sizeof score);
    return score;
}

static inline Wide wide_record(double score, int64_t item)
{
    uint64_t bits;
    score += 0.0;
    memcpy(&bits, &score, sizeof bits);
    return (Wide){turn_wide(bits), (uint64_t)item};
}

static inline double wide_score(Wide record)
{
    double score;
    uint64_t bits = turn_wide(record.key);
    memcpy(&score, &bits, sizeof score);
    return score;
}

/* One class, best score first; equal scores in the order of the input. */
typedef struct {
    const void *records;
    int32_t count;
    int wide;
} Sorted;

static inline double score_at(Sorted sorted, int32_t place)
{
    return sorted.wide ? wide_score(((const Wide *)sorted.records)[place])
                       : narrow_score(((const Narrow *)sorted.records)[place]);
}

static inline uint32_t item_at(Sorted sorted, int32_t place)
{
    return sorted.wide ? (uint32_t)((const Wide *)sorted.records)[place].item
                       : (uint32_t)((const Narrow *)sorted.records)[place];
}

typedef struct {
    Sorted negatives;
    const double *sum;    /* [negatives + 1] S[a], of the best a negatives, each less the centre */
    const double *p;      /* [rows] the positives, descending */
    const int32_t *lo;    /* [rows] #{n > p_i} */
    const int32_t *hi;    /* [rows] #{n >= p_i} */
    int32_t rows;
    double centre; /* a common offset of the scores costs the sums no digits */
    double task;   /* s epsilon N / 2 */
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

/* parallel.c: task(work, part, parts) for every part, by at most so many threads, each taking the next part that nobody
 * has taken */
typedef void Task(void *work, int part, int parts);
#define MOST_PARTS 128
void in_parts(int threads, int parts, Task *task, void *work);
int parts_for(int64_t steps, int threads); /* that are worth waking them; a step is a nanosecond or two */
static inline int64_t part_start(int64_t count, int part, int parts) { return count * part / parts; }
#define STEPS_A_ROW 16 /* of a count or a search, at least */

/* Where the time goes, for the benchmarks; a null watch measures nothing. The order is that of __init__.STAGES. */
enum { STAGE_SORT, STAGE_SUMS, STAGE_SEARCH, STAGE_REPAIR, STAGE_OUTCOME, STAGES };

typedef struct {
    double seconds[STAGES], since;
} Watch;

void lap(Watch *watch, int stage); /* of no stage, where it is -1 */

/* sort.c: whichever of the two arrays the sorted records end up in */
Narrow *sort_narrow(Narrow *records, Narrow *spare, int64_t count, int threads);
Wide *sort_wide(Wide *records, Wide *spare, int64_t count, int threads);

/* search.c: each row alone */
typedef struct {
    int32_t a;
    double value;
} Choice;

void search_rows(const Terms *terms, int32_t *a); /* for the sign of the task */
Choice argmax(const Terms *terms, double score, double i, int32_t last, int32_t hint);
void band(const Terms *terms, double score, double i, int32_t last, int32_t inside, double floor, int32_t *left,
          int32_t *right);

/* program.c: the dynamic program on rows first..last, row i within left[i]..right[i], both non-decreasing */
int solve_rows(const Terms *terms, int32_t first, int32_t last, const int32_t *left, const int32_t *right, int32_t *a);

/* repair.c: from rows alone to all rows; each returns 0, or -1 where memory ran out */
int positive_update(const Terms *terms, int32_t *a, Watch *watch);
int negative_update(const Terms *terms, int32_t *a, Watch *watch);
int full_program(const Terms *terms, int32_t *a, Watch *watch);

/* batch.c: a batch of rankings, one after another, and what is asked of it */
typedef struct {
    const void *scores;
    int wide; /* double, or else float */
    const void *targets;
    int type; /* of the targets, see layout.c */
    int ignores;
    int64_t ignored; /* the target of items that take no part, where `ignores` */
    int64_t rankings, items; /* items of each, where there are no offsets */
    const int64_t *offsets;  /* [rankings + 1] where each begins, and the end; or null */
    int threads;
} Batch;

typedef struct {
    int sign, full; /* of the update; the program over every cell */
    double epsilon;
    double gain, task_weight, ceiling;  /* as in fastap/problem.py */
    int chosen_weight, standard_weight; /* of y_direct and y_w in the gradient, in halves */
} Objective;

typedef struct {
    void *loss; /* double if loss_wide, or else float */
    int loss_wide;
    void *gradient; /* like the scores */
    unsigned char *takes_part;
    double *precision;
    int64_t *ranks;
    double *value;
} Outcome; /* what is null is not asked for */

enum { SOLVED, WRONG_TARGET, NO_MEMORY };

int solve_batch(const Batch *batch, const Objective *objective, const Outcome *outcome, Watch *watch);

/* layout.c: one ranking, sorted, and its work space: 17 bytes a float score, 33 a double, and 12 a positive */
enum { NEGATIVE, POSITIVE, IGNORED, WRONG, CLASSES };

typedef struct {
    int64_t start, items; /* where it begins in the batch, and its length */
    unsigned char *class; /* [items] */
    char *memory;         /* of all that follows */
    size_t size;
    int threads; /* for this ranking */
    Sorted positives, negatives;
    double *p, *sum;      /* [positives], [negatives + 1] */
    int32_t *lo, *hi, *a; /* [positives] */
    void *near;           /* scores whose gaps have been cut, where they must be */
} Ranking;

int sort_ranking(const Batch *batch, Ranking *ranking); /* p and all but sum, lo, hi and a */

/* outcome.c: of one sorted ranking */
int write_losses(const Batch *batch, const Objective *objective, const Outcome *outcome, int64_t line,
                 Ranking *ranking, Watch *watch);
int write_ranks(const Objective *objective, const Outcome *outcome, int64_t line, Ranking *ranking, Watch *watch);
int write_precision(const Outcome *outcome, int64_t line, Ranking *ranking);

#endif
