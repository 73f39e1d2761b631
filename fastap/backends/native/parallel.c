/* A crew of threads, kept for the next call, and a watch.
 *
 * A thread that waits starts 20 to 60 us after it is woken, a new one 300 us after it is made (a virtual machine of two
 * cores). Who asks for work takes part in it, and does all of it where nobody else gets there in time or the crew works
 * for another thread of the program.
 */
#include "parallel.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

static struct {
    pthread_mutex_t in_use; /* by one caller */
    pthread_mutex_t lock;   /* of all below */
    pthread_cond_t ends;
    int size; /* threads beside the caller */
    struct {
        pthread_cond_t begins;
        int called;
    } member[MOST_PARTS]; /* the first ones are called, always the same, however many there are */
    Task *task;
    void *work;
    int parts, next, unfinished;
} crew = {.in_use = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .ends = PTHREAD_COND_INITIALIZER};

/* Take parts until none is left; with the lock, which is open while a part is worked on. */
static void take_parts(void)
{
    while (crew.next < crew.parts) {
        const int part = crew.next++, parts = crew.parts;
        Task *task = crew.task;
        void *work = crew.work;
        pthread_mutex_unlock(&crew.lock);
        task(work, part, parts);
        pthread_mutex_lock(&crew.lock);
        if (--crew.unfinished == 0)
            pthread_cond_signal(&crew.ends);
    }
}

static void *serve(void *number)
{
    const intptr_t own = (intptr_t)number;
    pthread_mutex_lock(&crew.lock);
    for (;;) {
        if (crew.member[own].called) {
            crew.member[own].called = 0;
            take_parts();
        }
        pthread_cond_wait(&crew.member[own].begins, &crew.lock);
    }
    return NULL; /* never */
}

/* A child process has none of the threads, and locks as they happened to be. */
static void forget_crew(void)
{
    pthread_mutex_init(&crew.in_use, NULL);
    pthread_mutex_init(&crew.lock, NULL);
    pthread_cond_init(&crew.ends, NULL);
    crew.size = crew.parts = crew.next = crew.unfinished = 0;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, forget_crew); }

static void grow_crew(int size)
{
    if (crew.size >= size)
        return;
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    sigset_t all, before; /* signals are for the program's own threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    while (crew.size < size) {
        pthread_cond_init(&crew.member[crew.size].begins, NULL);
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)crew.size))
            break;
        pthread_detach(thread);
        crew.size++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void in_parts(int threads, int parts, Task *task, void *work)
{
    if (threads == 1 || parts == 1 || pthread_mutex_trylock(&crew.in_use)) {
        for (int part = 0; part < parts; part++)
            task(work, part, parts);
        return;
    }
    pthread_mutex_lock(&crew.lock);
    const int wanted = (threads < parts ? threads : parts) - 1;
    grow_crew(wanted);
    const int called = wanted < crew.size ? wanted : crew.size;
    crew.task = task;
    crew.work = work;
    crew.next = 0;
    crew.parts = crew.unfinished = parts;
    for (int number = 0; number < called; number++) {
        crew.member[number].called = 1;
        pthread_cond_signal(&crew.member[number].begins);
    }
    take_parts();
    for (int number = 0; number < called; number++)
        crew.member[number].called = 0; /* who has not come by now would find nothing left */
    while (crew.unfinished)
        pthread_cond_wait(&crew.ends, &crew.lock);
    pthread_mutex_unlock(&crew.lock);
    pthread_mutex_unlock(&crew.in_use);
}

/* Waking a thread takes 20 to 60 us, and now and then it shares a core with its waker for a while: several parts a
 * thread, so that who runs takes what the other would have had (10,000,000 scores: 190 to 270 ms with one). */
#define STEPS_A_PART (1 << 16)
#define PARTS_A_THREAD 4

int parts_for(int64_t steps, int threads)
{
    int64_t parts = 1 + steps / STEPS_A_PART;
    parts = parts < PARTS_A_THREAD * (int64_t)threads ? parts : PARTS_A_THREAD * (int64_t)threads;
    parts = parts < MOST_PARTS ? parts : MOST_PARTS;
    return threads == 1 ? 1 : (int)parts;
}

void lap(Watch *watch, int stage)
{
    if (!watch)
        return;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    if (stage >= 0)
        watch->seconds[stage] += seconds - watch->since;
    watch->since = seconds;
}
