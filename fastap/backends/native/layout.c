/* One ranking from the user's scores and targets to two sorted classes. */
#include "ranking.h"

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
    classifiers[split->batch->type](split->batch, split->ranking->start, from, to, class);
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

int sort_ranking(const Batch *batch, Ranking *ranking)
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
    /* The positives, their spare; the negatives, their spare. One more of each: S has an end more than negatives. */
    const size_t record = batch->wide ? sizeof(Wide) : sizeof(Narrow);
    const size_t of_positives = record * (size_t)total[POSITIVE], of_negatives = record * (size_t)(total[NEGATIVE] + 1);
    const size_t counts = sizeof(int32_t) * (size_t)total[POSITIVE];
    if (reserve(ranking, 2 * of_positives + 2 * of_negatives + 3 * counts))
        return NO_MEMORY;
    char *positives = ranking->memory, *negatives = positives + 2 * of_positives;
    int64_t place[CLASSES] = {[POSITIVE] = 0, [NEGATIVE] = 2 * total[POSITIVE]};
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
    ranking->hi = ranking->lo + total[POSITIVE];
    ranking->a = ranking->hi + total[POSITIVE];
    return SOLVED;
}
