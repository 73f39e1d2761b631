/* Keys and order: what is sorted, and how to read it. */
#ifndef FASTAP_SORT_H
#define FASTAP_SORT_H

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

/* Whichever of the two arrays the sorted records end up in. */
Narrow *sort_narrow(Narrow *records, Narrow *spare, int64_t count, int threads);
Wide *sort_wide(Wide *records, Wide *spare, int64_t count, int threads);

#endif
