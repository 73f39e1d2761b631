/* Work shared out among threads, and a watch. */
#ifndef FASTAP_PARALLEL_H
#define FASTAP_PARALLEL_H

#include <stdint.h>

/* task(work, part, parts) for every part, by at most so many threads, each taking the next part that nobody has taken */
typedef void Task(void *work, int part, int parts);
#define MOST_PARTS 128
void in_parts(int threads, int parts, Task *task, void *work);
int parts_for(int64_t steps, int threads); /* that are worth waking them; a step is a nanosecond or two */
static inline int64_t part_start(int64_t count, int part, int parts) { return count * part / parts; }
#define STEPS_A_ROW 16 /* of a count or a search, at least */

/* Where the time goes, for the benchmarks; a null watch measures nothing. The order is that of __init__.STAGES. */
enum { STAGE_SORT, STAGE_SUMS, STAGE_SEARCH, STAGE_REPAIR, STAGE_OUTPUT, STAGES };

typedef struct {
    double seconds[STAGES], since;
} Watch;

void lap(Watch *watch, int stage); /* of no stage, where it is -1 */

#endif
