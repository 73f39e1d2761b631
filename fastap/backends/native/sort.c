/* Radix sort, least digit first but for long arrays: stable, no comparison, and no branch that depends on a score. */
#include "parallel.h"
#include "sort.h"

#include <stdlib.h>

#define FEW 24 /* below, insertion beats the start of a histogram */
/* Histograms of 8-bit digits are cheap to clear and to scan, those of 11 bits save a pass in four. */
#define MANY 6000
/* So many records and their spare ones do not fit a core's cache: they are sorted by their highest digit first. */
#define LARGE (1 << 18)
#define MOST_VALUES (1 << 11)

typedef struct {
    void *records, *spare;
    int64_t count;
    int shift, values, threads;
    uint32_t (*places)[MOST_VALUES]; /* [parts]: how often a digit has a value, then where the next of these goes */
} Pass;

/* Places of every part: more than one are too much for a small stack; without memory for them there is one part. */
static uint32_t (*places_for(int *parts, uint32_t (*one)[MOST_VALUES]))[MOST_VALUES]
{
    uint32_t (*places)[MOST_VALUES] = *parts > 1 ? malloc(sizeof *places * (size_t)*parts) : NULL;
    if (!places)
        *parts = 1;
    return places ? places : one;
}

#define RECORD Narrow
#define KEY(record) ((uint32_t)((record) >> 32))
#define KEY_BITS 32
#define NAME(name) name##_narrow
#include "radix.h"
#undef RECORD
#undef KEY
#undef KEY_BITS
#undef NAME

#define RECORD Wide
#define KEY(record) ((record).key)
#define KEY_BITS 64
#define NAME(name) name##_wide
#include "radix.h"
