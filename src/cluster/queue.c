#include "cluster/queue.h"

#include <stddef.h>

#include "base/memory.h"
#include "base/progress.h"
#include "cluster/signals.h"

static const double tell_pause = 0.5; /* seconds between two notes of one leader */

enum { TELL, ASK };  /* to rank 0 */
enum { GIVE, STOP }; /* to a leader */

struct request {
    int64_t kind;
    struct job_note note;
};

struct answer {
    int64_t kind, job;
};

int queue_group(int rank, int size, int groups)
{
    return (int)((int64_t)rank * groups / size);
}

/* The first rank r with r * groups / size = group. */
static int leader_of(const struct queue *q, int group)
{
    return (int)(((int64_t)group * comm_size(q->all) + q->groups - 1) / q->groups);
}

struct error queue_new(struct queue *q, struct comm *all, struct comm *group, int groups, const int64_t *order,
                       int64_t count, void (*hear)(void *arg, const struct job_note *note), void *arg)
{
    *q = (struct queue){.all = all, .group = group, .groups = groups, .order = order, .count = count};
    q->number = queue_group(comm_rank(all), comm_size(all), groups);
    q->hear = hear;
    q->arg = arg;
    q->gone = memory_take(groups, sizeof *q->gone);
    return q->gone ? ok() : error_memory("the queue");
}

void queue_free(struct queue *q)
{
    memory_free(q->gone);
    *q = (struct queue){0};
}

/* A tick has no way to fail; queue_next and queue_end will. */
static bool good(struct queue *q, struct error e)
{
    if (q->error.code == ERROR_NONE)
        q->error = e;
    return e.code == ERROR_NONE;
}

static bool leads(const struct queue *q)
{
    return comm_rank(q->group) == 0;
}

static void doze(void)
{
    clock_sleep(2e-3);
}

/* ---------------------------------------------------------------------------------------------------- rank 0 */

static int64_t take_job(struct queue *q)
{
    return q->stopped || q->next == q->count ? -1 : q->order[q->next++];
}

static void hear(struct queue *q, const struct job_note *note)
{
    if (note->state == JOB_STOPPED)
        signals_request_stop(); // group 0 too
    if (note->job >= 0)
        q->hear(q->arg, note);
}

/* Tells those who still work, once. */
static void stop_all(struct queue *q)
{
    const struct answer stop = {.kind = STOP, .job = -1};
    q->stopped = true;
    for (int group = 1; group < q->groups; group++)
        if (!q->gone[group])
            good(q, comm_send(q->all, &stop, sizeof stop, leader_of(q, group)));
}

static void answer(struct queue *q, int rank, const struct request *request)
{
    hear(q, &request->note);
    if (request->kind != ASK)
        return;
    struct answer answer = {.kind = GIVE, .job = take_job(q)};
    int group = queue_group(rank, comm_size(q->all), q->groups);
    q->gone[group] = answer.job < 0;
    good(q, comm_send(q->all, &answer, sizeof answer, rank));
}

static void serve_all(struct queue *q)
{
    struct request request;
    int from;
    if (signals_stop_requested() && !q->stopped)
        stop_all(q);
    while (good(q, comm_poll(q->all, &from)) && from >= 0)
        if (good(q, comm_receive(q->all, &request, sizeof request, from)))
            answer(q, from, &request);
}

static bool all_gone(const struct queue *q)
{
    for (int group = 1; group < q->groups; group++)
        if (!q->gone[group])
            return false;
    return true;
}

/* ---------------------------------------------------------------------------------------------------- the others */

static void send_request(struct queue *q, int64_t kind, const struct job_note *note)
{
    const struct request request = {kind, *note};
    good(q, comm_send(q->all, &request, sizeof request, 0));
    q->told = clock_seconds();
}

/* *job: what was given, or unchanged where nothing came. */
static void listen(struct queue *q, bool *given, int64_t *job)
{
    struct answer answer;
    int from;
    *given = false;
    if (!good(q, comm_poll(q->all, &from)) || from < 0 || !good(q, comm_receive(q->all, &answer, sizeof answer, from)))
        return;
    if (answer.kind == STOP)
        signals_request_stop();
    *given = answer.kind == GIVE;
    *job = answer.job;
}

static void ask(struct queue *q, const struct job_note *last, int64_t *job)
{
    bool given = false;
    send_request(q, ASK, last);
    for (listen(q, &given, job); !given && q->error.code == ERROR_NONE; listen(q, &given, job))
        doze();
}

/* A rank without work that was asked to stop: no step of its group will tell. */
static void report_stop(struct queue *q)
{
    const struct job_note note = {.job = -1, .state = JOB_STOPPED};
    if (!signals_stop_requested() || q->reported)
        return;
    q->reported = true;
    send_request(q, TELL, &note);
}

/* ---------------------------------------------------------------------------------------------------- verbs */

void queue_serve(struct queue *q)
{
    bool given;
    int64_t job;
    if (comm_rank(q->all) == 0)
        serve_all(q);
    else if (leads(q))
        listen(q, &given, &job);
}

void queue_tell(struct queue *q, const struct job_note *note)
{
    if (comm_rank(q->all) == 0)
        hear(q, note);
    else if (leads(q) && clock_seconds() - q->told >= tell_pause)
        send_request(q, TELL, note);
    queue_serve(q);
}

struct error queue_next(struct queue *q, const struct job_note *last, int64_t *job)
{
    *job = -1;
    if (comm_rank(q->all) == 0) {
        hear(q, last);
        serve_all(q);
        *job = take_job(q);
    } else if (leads(q)) {
        ask(q, last, job);
    }
    // the others of the group sleep until the leader has its answer
    TRY(comm_gather(q->group, 0, NULL, NULL));
    TRY(comm_agree(q->group, q->error));
    return comm_broadcast(q->group, job, sizeof *job, 0);
}

static void wait_a_little(void *arg)
{
    struct queue *q = arg;
    if (comm_rank(q->all) == 0)
        serve_all(q);
    else
        report_stop(q);
}

struct error queue_end(struct queue *q)
{
    if (comm_rank(q->all) == 0)
        for (serve_all(q); !all_gone(q) && q->error.code == ERROR_NONE; serve_all(q))
            doze();
    TRY(comm_gather(q->all, 0.1, wait_a_little, q));
    return comm_agree(q->all, q->error);
}
