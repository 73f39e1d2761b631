/* One ranking from the user's scores and targets to two sorted classes, counts and prefix sums. */
#include "batch.h"

#include <math.h>
#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

/* Huge pages spare long rankings most page faults and most misses of the address cache. */
#define HUGE_PAGE ((size_t)1 << 21)

static int reserve(Ranking *ranking, size_t size)
{
    if (size <= ranking->size)
        return 0;
    free(ranking->memory);
    ranking->memory = NULL;
    ranking->size = 0;
#ifdef MADV_HUGEPAGE
    if (size >= 2 * HUGE_PAGE) {
        size = (size + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
        ranking->memory = aligned_alloc(HUGE_PAGE, size);
        if (ranking->memory)
            madvise(ranking->memory, size, MADV_HUGEPAGE);
    }
#endif
    if (!ranking->memory)
        ranking->memory = malloc(size);
    if (!ranking->memory)
        return -1;
    ranking->size = size;
    return 0;
}

#define CLASSIFY(name, type)                                                                                          \
    static void name(const Batch *batch, int64_t start, int64_t from, int64_t to, unsigned char *class)               \
    {                                                                                                                 \
        const type *target = (const type *)batch->targets + start;                                                    \
        const type none = (type)batch->ignored;                                                                       \
        const int ignores = batch->ignores;                                                                           \
        for (int64_t item = from; item < to; item++) {                                                                \
            type each = target[item];                                                                                 \
            class[item] = each == 1 ? POSITIVE : each == 0 ? NEGATIVE : ignores && each == none ? IGNORED : WRONG;    \
        }                                                                                                             \
    }

CLASSIFY(classify_u8, uint8_t)
CLASSIFY(classify_i8, int8_t)
CLASSIFY(classify_i16, int16_t)
CLASSIFY(classify_i32, int32_t)
CLASSIFY(classify_i64, int64_t)
CLASSIFY(classify_float, float)
CLASSIFY(classify_double, double)

static void classify_bool(const Batch *batch, int64_t start, int64_t from, int64_t to, unsigned char *class)
{
    const unsigned char *target = (const unsigned char *)batch->targets + start;
    for (int64_t item = from; item < to; item++)
        class[item] = target[item] ? POSITIVE : NEGATIVE;
}

/* The order is that of __init__._TARGETS. */
static void (*const classifiers[])(const Batch *, int64_t, int64_t, int64_t, unsigned char *) = {
    classify_bool, classify_u8, classify_i8, classify_i16, classify_i32, classify_i64, classify_float, classify_double,
};

/* How many of every class a part has, and then where its next record of that class goes. */
typedef struct {
    const Batch *batch;
    const Ranking *ranking;
    void *records;
    int64_t places[MOST_PARTS][CLASSES];
} Split;

static void classify(void *work, int part, int parts)
{
    Split *split = work;
    const int64_t items = split->ranking->items;
    const int64_t from = part_start(items, part, parts), to = part_start(items, part + 1, parts);
    unsigned char *class = split->ranking->class;
    const int64_t start = split->ranking->start % split->batch->distinct;
    classifiers[split->batch->type](split->batch, start, from, to, class);
    uint32_t positives = 0, negatives = 0, wrong = 0; /* sums of comparisons, which compilers turn into vectors */
    for (int64_t item = from; item < to; item++) {
        positives += class[item] == POSITIVE;
        negatives += class[item] == NEGATIVE;
        wrong += class[item] == WRONG;
    }
    split->places[part][POSITIVE] = positives;
    split->places[part][NEGATIVE] = negatives;
    split->places[part][WRONG] = wrong;
}

#define MAKE_RECORDS(name, Record, Score, record_of)                                                                  \
    static void name(void *work, int part, int parts)                                                                 \
    {                                                                                                                 \
        Split *split = work;                                                                                          \
        const Ranking *ranking = split->ranking;                                                                      \
        const Score *score = (const Score *)split->batch->scores + ranking->start;                                    \
        const int64_t to = part_start(ranking->items, part + 1, parts);                                               \
        Record *records = split->records;                                                                             \
        int64_t *place = split->places[part];                                                                         \
        for (int64_t item = part_start(ranking->items, part, parts); item < to; item++) {                             \
            unsigned char class = ranking->class[item];                                                               \
            if (class != IGNORED)                                                                                     \
                records[place[class]++] = record_of(score[item], item);                                               \
        }                                                                                                             \
    }

MAKE_RECORDS(make_narrow, Narrow, float, narrow_record)
MAKE_RECORDS(make_wide, Wide, double, wide_record)

/* In the records of the class or in the spare ones; `free` is the other. */
static Sorted sort_class(char *records, char *spare, int64_t count, int wide, int threads, double **free)
{
    void *sorted = wide ? (void *)sort_wide((Wide *)records, (Wide *)spare, count, threads)
                        : (void *)sort_narrow((Narrow *)records, (Narrow *)spare, count, threads);
    *free = (double *)(sorted == records ? spare : records);
    return (Sorted){sorted, (int32_t)count, wide};
}

int split_ranking(const Batch *batch, Ranking *ranking)
{
    Split split = {.batch = batch, .ranking = ranking};
    const int threads = ranking->threads, parts = parts_for(ranking->items, threads);
    in_parts(threads, parts, classify, &split);
    int64_t total[CLASSES] = {0};
    for (int part = 0; part < parts; part++)
        for (int class = 0; class < CLASSES; class++)
            total[class] += split.places[part][class];
    if (total[WRONG])
        return WRONG_TARGET;
    /* The positives, their spare; the negatives, their spare. One more of each: sums have an end more than a class. */
    const size_t record = batch->wide ? sizeof(Wide) : sizeof(Narrow);
    const size_t of_positives = record * (size_t)(total[POSITIVE] + 1), of_negatives = record * (size_t)(total[NEGATIVE] + 1);
    const size_t counts = sizeof(int32_t) * (size_t)total[POSITIVE];
    if (reserve(ranking, 2 * of_positives + 2 * of_negatives + 3 * counts))
        return NO_MEMORY;
    char *positives = ranking->memory, *negatives = positives + 2 * of_positives;
    int64_t place[CLASSES] = {[POSITIVE] = 0, [NEGATIVE] = 2 * (total[POSITIVE] + 1)};
    for (int part = 0; part < parts; part++)
        for (int class = NEGATIVE; class <= POSITIVE; class++) {
            int64_t here = split.places[part][class];
            split.places[part][class] = place[class];
            place[class] += here;
        }
    split.records = ranking->memory;
    in_parts(threads, parts, batch->wide ? make_wide : make_narrow, &split);
    ranking->positives = sort_class(positives, positives + of_positives, total[POSITIVE], batch->wide, threads,
                                    &ranking->p);
    ranking->negatives = sort_class(negatives, negatives + of_negatives, total[NEGATIVE], batch->wide, threads,
                                    &ranking->sum);
    for (int32_t row = 0; row < ranking->positives.count; row++)
        ranking->p[row] = score_at(ranking->positives, row);
    ranking->lo = (int32_t *)(negatives + 2 * of_negatives);
    ranking->b = ranking->hi = ranking->lo + total[POSITIVE];
    ranking->a = ranking->hi + total[POSITIVE];
    return SOLVED;
}

/* How many negatives stand above a score, or level with it too, given that `from` do: the search starts nearby. */
int32_t count_above(Sorted negatives, int32_t from, double score, int level)
{
#define IS_ABOVE(place) (level ? score_at(negatives, place) >= score : score_at(negatives, place) > score)
    int64_t above = from, end = negatives.count, step = 1; /* `above` are, those from `end` on are not */
    while (above + step <= negatives.count) {
        if (!IS_ABOVE((int32_t)(above + step - 1))) {
            end = above + step - 1;
            break;
        }
        above += step;
        step *= 2;
    }
    while (above < end) {
        int64_t middle = (above + end) >> 1;
        if (IS_ABOVE((int32_t)middle))
            above = middle + 1;
        else
            end = middle;
    }
#undef IS_ABOVE
    return (int32_t)above;
}

static void count_part(void *work, int part, int parts)
{
    const Ranking *ranking = work;
    int32_t lo = 0, hi = 0;
    const int64_t to = part_start(ranking->positives.count, part + 1, parts);
    for (int64_t row = part_start(ranking->positives.count, part, parts); row < to; row++) {
        ranking->lo[row] = lo = count_above(ranking->negatives, lo, ranking->p[row], 0);
        ranking->hi[row] = hi = count_above(ranking->negatives, hi > lo ? hi : lo, ranking->p[row], 1);
    }
}

void count_negatives(Ranking *ranking)
{
    share(ranking, (int64_t)ranking->positives.count * STEPS_A_ROW, count_part, ranking);
}

/* The discount of every rank of NDCG or BEDROC, if it is not there from the ranking before; of BEDROC less that of the
 * first rank and over it, so that differences keep their digits whatever its number. */
static int find_discounts(Ranking *ranking, const Objective *objective)
{
    const int is_early = objective->measure == BEDROC;
    if (!is_early && objective->measure != NDCG)
        return SOLVED;
    int64_t items = (int64_t)ranking->positives.count + ranking->negatives.count;
    if (objective->k > 0 && objective->k < items) /* which BEDROC has not */
        items = objective->k;
    if (ranking->of_discount > items && (!is_early || ranking->discounted == items))
        return SOLVED;
    free(ranking->discount);
    ranking->discount = malloc((size_t)(items + 1) * sizeof *ranking->discount);
    if (!ranking->discount)
        return NO_MEMORY;
    ranking->discount[0] = 1.0; /* of no item */
    for (int64_t rank = 1; rank <= items; rank++)
        ranking->discount[rank] = is_early ? expm1(-objective->parameter * (rank - 1.0) / items) : 1.0 / log2(1.0 + rank);
    ranking->of_discount = items + 1;
    ranking->discounted = items;
    return SOLVED;
}

/* What the costs are divided by, so that the loss of the worst ranking is at most 1, and the loss of the best one. */
static void scale(Terms *terms, double k)
{
    const double rows = terms->rows, counted = fmin(rows, k);
    terms->best = rows;
    terms->lowest = 0.0;
    if (terms->measure == AVERAGE_PRECISION) {
        terms->best = counted;
    } else if (terms->measure == RECIPROCAL_RANK) {
        terms->best = 1.0;
    } else if (terms->measure == PRECISION || terms->measure == RECALL) {
        terms->best = terms->measure == PRECISION ? k : rows;
        terms->lowest = 1.0 - counted / terms->best;
    } else if (!terms->discount) {
        terms->best = rows * terms->most;
    } else {
        terms->best = 0.0;
        for (int32_t row = 1; row <= counted; row++)
            terms->best += terms->discount[row]
                           - (terms->measure == BEDROC ? terms->discount[terms->negatives.count + row] : 0.0);
    }
}

/* Counts, sums, and the terms made of them. F sees differences of scores only, so sums may count from anywhere; from the
 * middle positive, because rows choose among the negatives around them, however far below the others lie. */
int terms_of(Ranking *ranking, const Objective *objective, Terms *terms)
{
    const Sorted negatives = ranking->negatives;
    if (find_discounts(ranking, objective))
        return NO_MEMORY;
    const double centre = ranking->p[ranking->positives.count / 2];
    double sum = ranking->sum[0] = 0.0;
    for (int32_t place = 0; place < negatives.count; place++)
        ranking->sum[place + 1] = sum += score_at(negatives, place) - centre;
    count_negatives(ranking);
    *terms = (Terms){.negatives = negatives,
                     .sum = ranking->sum,
                     .p = ranking->p,
                     .lo = ranking->lo,
                     .hi = ranking->hi,
                     .rows = ranking->positives.count,
                     .centre = centre,
                     .discount = ranking->of_discount ? ranking->discount : NULL,
                     .measure = objective->measure,
                     .threads = ranking->threads};
    if (objective->measure == AUC || objective->measure == PARTIAL_AUC)
        terms->most = negatives.count * objective->parameter;
    terms->cutoff = objective->k > 0 && objective->k < terms->rows + (int64_t)negatives.count ? objective->k : INFINITY;
    scale(terms, objective->k > 0 ? objective->k : INFINITY);
    terms->task = negatives.count * (0.5 * objective->epsilon) * (terms->rows / terms->best);
    return SOLVED;
}

/* How large a gap between neighbouring scores, of whatever class, may stay: no measure pays a row for one negative more
 * or less at more than |task| from it, so that no larger gap is ever crossed, and one of twice that does as well. */
static double largest_gap(const Terms *terms) { return 2.0 * fabs(terms->task); }

/* Sums of scores that span so many epsilons have lost what is small against one. */
#define FAR 0x1p20

static int is_far(const Terms *terms)
{
    const double span = fmax(terms->p[0], score_at(terms->negatives, 0)) - terms->p[terms->rows - 1];
    return span > FAR * largest_gap(terms) / terms->negatives.count && span > largest_gap(terms);
}

/* The same terms less the gaps that are never crossed, if there are any: the same optimum, in sums that keep their
 * digits. */
int cut_gaps(Ranking *ranking, Terms *terms)
{
    if (!is_far(terms))
        return SOLVED;
    const Sorted negatives = terms->negatives;
    const size_t rows = (size_t)terms->rows, columns = (size_t)negatives.count;
    free(ranking->near);
    Wide *records = ranking->near = malloc(columns * sizeof *records + (rows + columns + 1) * sizeof(double));
    if (!records)
        return NO_MEMORY;
    double *p = (double *)(records + columns), *sum = p + rows;
    const double most = largest_gap(terms);
    double last = fmax(terms->p[0], score_at(negatives, 0)), near = 0.0;
    for (int32_t row = 0, place = 0; row < terms->rows || place < negatives.count;) {
        const int is_row = place == negatives.count || (row < terms->rows && terms->p[row] >= score_at(negatives, place));
        const double score = is_row ? terms->p[row] : score_at(negatives, place);
        near -= fmin(last - score, most);
        last = score;
        if (is_row)
            p[row++] = near;
        else
            records[place++] = wide_record(near, 0);
    }
    terms->negatives = (Sorted){records, negatives.count, 1};
    terms->p = p;
    terms->sum = sum;
    terms->centre = p[rows / 2];
    sum[0] = 0.0;
    for (int32_t place = 0; place < negatives.count; place++)
        sum[place + 1] = sum[place] + (score_at(terms->negatives, place) - terms->centre);
    return SOLVED;
}
