/* Threads, and a watch. */
#include "ranking.h"

#include <pthread.h>
#include <time.h>

typedef struct {
    Task *task;
    void *work;
    int part, parts;
} Part;

static void *run_part(void *argument)
{
    const Part *part = argument;
    part->task(part->work, part->part, part->parts);
    return NULL;
}

void in_parts(int parts, Task *task, void *work)
{
    pthread_t threads[MOST_PARTS];
    Part each[MOST_PARTS];
    int started[MOST_PARTS];
    for (int part = 1; part < parts; part++) {
        each[part] = (Part){task, work, part, parts};
        started[part] = !pthread_create(&threads[part], NULL, run_part, &each[part]);
    }
    task(work, 0, parts);
    for (int part = 1; part < parts; part++) {
        if (started[part])
            pthread_join(threads[part], NULL);
        else
            run_part(&each[part]);
    }
}

void lap(Watch *watch, int stage)
{
    if (!watch)
        return;
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    if (stage >= 0)
        watch->seconds[stage] += seconds - watch->since;
    watch->since = seconds;
}
