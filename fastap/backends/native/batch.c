/* The rankings of a batch, shared out among threads; a single long one has the threads to itself. */
#include "ranking.h"

#include <stdatomic.h>
#include <stdlib.h>

#define STEPS_A_SCORE 20

/* Threads take the next ranking that nobody has taken; no result depends on who takes which. */
typedef struct {
    const Batch *batch;
    const Objective *objective;
    const Outcome *outcome;
    Watch *watch;
    int threads; /* for each ranking */
    atomic_llong next;
    atomic_int status;
} Work;

static int solve_ranking(const Work *work, int64_t line, Ranking *ranking)
{
    lap(work->watch, -1);
    int status = sort_ranking(work->batch, line, ranking);
    lap(work->watch, STAGE_SORT);
    if (status != SOLVED)
        return status;
    if (work->outcome->precision)
        return write_precision(work->outcome, line, ranking);
    if (work->outcome->ranks)
        return write_ranks(work->batch, work->objective, work->outcome, line, ranking, work->watch);
    return write_losses(work->batch, work->objective, work->outcome, line, ranking, work->watch);
}

static void solve_some(void *argument, int part, int parts)
{
    Work *work = argument;
    Ranking ranking = {.class = malloc((size_t)work->batch->items), .threads = work->threads};
    int status = ranking.class ? SOLVED : NO_MEMORY;
    for (long long line; status == SOLVED && (line = atomic_fetch_add(&work->next, 1)) < work->batch->rankings;)
        status = solve_ranking(work, line, &ranking);
    if (status != SOLVED)
        atomic_store(&work->status, status);
    free(ranking.class);
    free(ranking.memory);
    (void)part;
    (void)parts;
}

int solve_batch(const Batch *batch, const Objective *objective, const Outcome *outcome, Watch *watch)
{
    Work work = {.batch = batch, .objective = objective, .outcome = outcome, .watch = watch};
    const int enough = parts_for(batch->rankings * batch->items * STEPS_A_SCORE, batch->threads);
    int threads = batch->threads < enough ? batch->threads : enough;
    threads = threads < batch->rankings ? threads : (int)batch->rankings;
    threads = watch ? 1 : threads; /* which times one thread */
    work.threads = threads > 1 || watch ? 1 : batch->threads;
    in_parts(threads, threads, solve_some, &work);
    return atomic_load(&work.status);
}
