/* Reads in order of asking, by threads of their own: no reader ever waits for Python, nor Python for a reader
 * but the one whose bytes it needs.
 *
 * A pool has SLOTS places for reads, numbered in the order in which they are asked for; whoever asks sees to it
 * that a place is free again before it is asked for anew. Times are of CLOCK_MONOTONIC, in seconds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 256 /* native_reads.py has it too */
#define MOST_READERS 64
#define STACK_BYTES (128 * 1024)

enum { READ = 0, UNDER_WAY = -1, SHORT = -2, CLOSED = -3 }; /* more than 0 is an errno */

typedef struct {
  char *into;
  int64_t offset, span_bytes, least_bytes, request_bytes;
  double start_s, stop_s;
  int fd, state, reader;
} Read;

typedef struct {
  pthread_mutex_t lock;
  pthread_cond_t asked_for, arrived;
  pthread_t threads[MOST_READERS];
  Read reads[SLOTS];
  int64_t asked, taken, read_bytes;
  double busy_s, since_s;
  int readers, under_way, idle, waiting, closed;
} Pool;

typedef struct {
  Pool *pool;
  int reader;
} Start;

static double now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec * 1e-9;
}

/* What must come is read, in requests of limited size; what lies behind it may be past the end of the file. */
static int fill(const Read *read) {
  int64_t done = 0;
  while (done < read->least_bytes) {
    int64_t left = read->span_bytes - done;
    int64_t wanted = left < read->request_bytes ? left : read->request_bytes;
    ssize_t count = pread(read->fd, read->into + done, wanted, read->offset + done);
    if (count < 0 && errno != EINTR) return errno;
    if (count == 0) return SHORT;
    if (count > 0) done += count;
  }
  return READ;
}

static void *read_ahead(void *argument) {
  Start start = *(Start *)argument;
  free(argument);
  Pool *pool = start.pool;
  pthread_mutex_lock(&pool->lock);
  for (;;) {
    while (!pool->closed && pool->taken == pool->asked) {
      pool->idle++;
      pthread_cond_wait(&pool->asked_for, &pool->lock);
      pool->idle--;
    }
    if (pool->closed) break;
    Read *read = &pool->reads[pool->taken++ % SLOTS];
    read->start_s = now_s();
    read->reader = start.reader;
    if (!pool->under_way++) pool->since_s = read->start_s;
    pthread_mutex_unlock(&pool->lock);
    int state = fill(read);
    pthread_mutex_lock(&pool->lock);
    read->stop_s = now_s();
    read->state = state;
    if (state == READ) pool->read_bytes += read->span_bytes;
    if (!--pool->under_way) pool->busy_s += read->stop_s - pool->since_s;
    if (pool->waiting) pthread_cond_broadcast(&pool->arrived);
  }
  pthread_mutex_unlock(&pool->lock);
  return NULL;
}

/* Let time pass until something arrives or `until` comes. Holding the lock. */
static int wait_until(Pool *pool, double until_s) {
  struct timespec until = {(time_t)until_s, (long)((until_s - (time_t)until_s) * 1e9)};
  pool->waiting++;
  int late = pthread_cond_timedwait(&pool->arrived, &pool->lock, &until);
  pool->waiting--;
  return late;
}

void reads_stop(Pool *pool) {
  pthread_mutex_lock(&pool->lock);
  int readers = pool->closed ? 0 : pool->readers;
  pool->closed = 1;
  pthread_cond_broadcast(&pool->asked_for);
  pthread_cond_broadcast(&pool->arrived);
  pthread_mutex_unlock(&pool->lock);
  for (int i = 0; i < readers; i++) pthread_join(pool->threads[i], NULL);
}

/* After reads_stop, when nobody uses the pool any more. */
void reads_free(Pool *pool) {
  pthread_cond_destroy(&pool->asked_for);
  pthread_cond_destroy(&pool->arrived);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}

/* Start so many readers; NULL where the system gives no memory or not all the threads. */
Pool *reads_start(int readers) {
  Pool *pool = readers > 0 && readers <= MOST_READERS ? calloc(1, sizeof(Pool)) : NULL;
  if (!pool) return NULL;
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->asked_for, NULL);
  pthread_cond_init(&pool->arrived, &monotonic);
  pthread_condattr_destroy(&monotonic);

  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, STACK_BYTES);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for Python's main thread */
  while (pool->readers < readers) {
    Start *start = malloc(sizeof(Start));
    if (start) *start = (Start){pool, pool->readers};
    if (!start || pthread_create(&pool->threads[pool->readers], &small, read_ahead, start)) {
      free(start);
      break;
    }
    pool->readers++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&small);
  if (pool->readers == readers) return pool;
  reads_stop(pool);
  reads_free(pool);
  return NULL;
}

/* Ask for `span_bytes` at `offset`, of which the first `least_bytes` are in the file; return its number. */
int64_t reads_ask(Pool *pool, int fd, char *into, int64_t offset, int64_t span_bytes, int64_t least_bytes,
                  int64_t request_bytes) {
  pthread_mutex_lock(&pool->lock);
  int64_t number = pool->asked++;
  pool->reads[number % SLOTS] = (Read){
      .into = into, .offset = offset, .span_bytes = span_bytes, .least_bytes = least_bytes,
      .request_bytes = request_bytes, .fd = fd, .state = UNDER_WAY};
  if (pool->idle) pthread_cond_signal(&pool->asked_for);
  pthread_mutex_unlock(&pool->lock);
  return number;
}

/* Return what came of a read, waiting for it at most so long; UNDER_WAY where that was not enough. */
int reads_wait(Pool *pool, int64_t number, double most_s) {
  const Read *read = &pool->reads[number % SLOTS];
  pthread_mutex_lock(&pool->lock);
  double until_s = read->state == UNDER_WAY ? now_s() + most_s : 0;
  while (!pool->closed && read->state == UNDER_WAY && !wait_until(pool, until_s)) continue;
  int state = pool->closed ? CLOSED : read->state;
  pthread_mutex_unlock(&pool->lock);
  return state;
}

/* Forget the reads that have not begun and wait at most so long for those that have; return how many remain. */
int reads_drop(Pool *pool, double most_s) {
  pthread_mutex_lock(&pool->lock);
  double until_s = now_s() + most_s;
  pool->asked = pool->taken;
  while (!pool->closed && pool->under_way && !wait_until(pool, until_s)) continue;
  int left = pool->closed ? 0 : pool->under_way;
  pthread_mutex_unlock(&pool->lock);
  return left;
}

/* The bytes read so far, and the seconds in which a read was under way, with those that are now. */
void reads_count(Pool *pool, int64_t *read_bytes, double *busy_s) {
  pthread_mutex_lock(&pool->lock);
  *read_bytes = pool->read_bytes;
  *busy_s = pool->busy_s + (pool->under_way ? now_s() - pool->since_s : 0);
  pthread_mutex_unlock(&pool->lock);
}

/* When a read that is done began and ended; return who made it. */
int reads_times(Pool *pool, int64_t number, double *start_s, double *stop_s) {
  pthread_mutex_lock(&pool->lock);
  const Read *read = &pool->reads[number % SLOTS];
  *start_s = read->start_s;
  *stop_s = read->stop_s;
  int reader = read->reader;
  pthread_mutex_unlock(&pool->lock);
  return reader;
}
