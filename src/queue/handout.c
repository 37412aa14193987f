#include "queue/handout.h"

#include <stddef.h>

#include "base/memory.h"
#include "base/clock.h"
#include "cluster/signals.h"

static const double tell_pause = 0.5; /* seconds between two notes of one leader */
static const double idle_pause = 0.1; /* the same without work */
static const double look_pause = 0.1; /* seconds of work between two polls, each of which may give the core away */
static const double slack = 3;        /* seconds beyond the limit: a rank waiting inside a group speaks first */

enum { TELL, ASK, ASIDE };        /* to rank 0, which answers the first two */
enum { HEARD, GIVE, OVER, STOP }; /* to a leader: answers, but for STOP */

struct request {
    int64_t kind;
    struct job_note note;
};

struct answer {
    int64_t kind, job;
    int64_t step; /* of rank 0's own job */
};

int handout_group_of(int rank, int size, int groups)
{
    return (int)((int64_t)rank * groups / size);
}

/* The first rank r with r * groups / size = group. */
static int leader_of(const struct handout *q, int group)
{
    return (int)(((int64_t)group * comm_size(q->all) + q->groups - 1) / q->groups);
}

struct error handout_new(struct handout *q, struct comm *all, struct comm *group, int groups, double limit,
                         const int64_t *order, int64_t count, void (*hear)(void *arg, const struct job_note *note),
                         void *arg)
{
    *q = (struct handout){.all = all, .group = group, .groups = groups, .limit = limit, .order = order, .count = count};
    q->number = handout_group_of(comm_rank(all), comm_size(all), groups);
    q->hear = hear;
    q->arg = arg;
    q->looked = clock_seconds();
    q->members = memory_alloc(groups, sizeof *q->members);
    return q->members ? ok() : error_memory("the queue");
}

void handout_free(struct handout *q)
{
    memory_free(q->members);
    *q = (struct handout){0};
}

/* A tick cannot report an error; handout_next and handout_end will. */
static bool good(struct handout *q, struct error e)
{
    if (q->error.code == ERROR_NONE)
        q->error = e;
    return e.code == ERROR_NONE;
}

static bool leads(const struct handout *q)
{
    return comm_rank(q->group) == 0;
}

static void doze(void)
{
    clock_sleep(2e-3);
}

/* -------------------------------------------------------------------------------- watching */

/* Seconds since the last poll that count as silence. */
static double time_to_blame(struct handout *q)
{
    double now = clock_seconds(), since = now - q->looked;
    q->looked = now;
    return since < q->limit / 2 ? since : q->limit / 2;
}

/* Ends all ranks if one has been silent too long. */
static void check_silence(struct handout *q, double silent, int rank, int64_t step)
{
    if (silent > q->limit + slack)
        good(q, comm_abort(q->all, error_failed("rank %d, which leads its group, gave no sign of life for %g s "
                                                "(cluster.timeout) after step %lld of its job: hung, or slower than "
                                                "that",
                                                rank, q->limit, (long long)step)));
}

/* -------------------------------------------------------------------------------- rank 0 */

static int64_t take_job(struct handout *q)
{
    return q->stopped || q->next == q->count ? -1 : q->order[q->next++];
}

static void hear(struct handout *q, const struct job_note *note)
{
    if (note->state == JOB_STOPPED)
        signals_request_stop(); // group 0 too
    if (note->job >= 0)
        q->hear(q->arg, note);
}

/* Tells the groups still working, once. */
static void stop_all(struct handout *q)
{
    const struct answer stop = {.kind = STOP, .job = -1};
    q->stopped = true;
    for (int group = 1; group < q->groups; group++)
        if (!q->members[group].gone)
            good(q, comm_send(q->all, &stop, sizeof stop, leader_of(q, group)));
}

static bool all_gone(const struct handout *q)
{
    for (int group = 1; group < q->groups; group++)
        if (!q->members[group].gone)
            return false;
    return true;
}

static bool all_over(const struct handout *q)
{
    for (int group = 1; group < q->groups; group++)
        if (!q->members[group].over)
            return false;
    return true;
}

static void answer(struct handout *q, int rank, const struct request *request)
{
    struct handout_group *m = &q->members[handout_group_of(rank, comm_size(q->all), q->groups)];
    struct answer answer = {HEARD, -1, q->members[0].step};
    hear(q, &request->note);
    if (request->kind == ASIDE)
        return;
    m->silent = 0;
    m->step = request->note.step;
    if (request->kind == ASK) {
        answer.kind = GIVE;
        answer.job = take_job(q);
        m->gone = answer.job < 0;
    } else if (q->idle && all_gone(q)) {
        answer.kind = OVER;
        m->over = true;
    }
    good(q, comm_send(q->all, &answer, sizeof answer, rank));
}

static void serve_all(struct handout *q)
{
    struct request request;
    int from;
    double since = time_to_blame(q);
    for (int group = 1; group < q->groups; group++)
        q->members[group].silent += since;
    if (signals_stop_requested() && !q->stopped)
        stop_all(q);
    while (good(q, comm_poll(q->all, &from)) && from >= 0)
        if (good(q, comm_receive(q->all, &request, sizeof request, from)))
            answer(q, from, &request);
    for (int group = 1; group < q->groups; group++)
        if (!q->members[group].over)
            check_silence(q, q->members[group].silent, leader_of(q, group), q->members[group].step);
}

/* -------------------------------------------------------------------------------- the others */

static void send_request(struct handout *q, int64_t kind, const struct job_note *note)
{
    const struct request request = {kind, *note};
    good(q, comm_send(q->all, &request, sizeof request, 0));
    q->told = clock_seconds();
    q->owed += kind != ASIDE;
}

/* A leader receives rank 0's answers; *job: the job given, or unchanged. */
static void listen(struct handout *q, bool *given, int64_t *job)
{
    struct answer answer;
    int from;
    double since = time_to_blame(q);
    q->silent += q->owed > 0 ? since : 0;
    *given = false;
    while (!*given && good(q, comm_poll(q->all, &from)) && from >= 0) {
        if (!good(q, comm_receive(q->all, &answer, sizeof answer, from)))
            return;
        q->silent = 0;
        q->owed -= answer.kind != STOP;
        q->members[0].step = answer.step;
        q->over = answer.kind == OVER;
        if (answer.kind == STOP)
            signals_request_stop();
        *given = answer.kind == GIVE;
        *job = *given ? answer.job : *job;
    }
    check_silence(q, q->silent, 0, q->members[0].step);
}

static void ask(struct handout *q, const struct job_note *last, int64_t *job)
{
    bool given = false;
    send_request(q, ASK, last);
    for (listen(q, &given, job); !given && q->error.code == ERROR_NONE; listen(q, &given, job))
        doze();
}

/* A rank without work was asked to stop: no step of its group will report that. */
static void report_stop(struct handout *q)
{
    const struct job_note note = {.job = -1, .state = JOB_STOPPED};
    if (!q->idle || !signals_stop_requested() || q->reported)
        return;
    q->reported = true;
    send_request(q, ASIDE, &note);
}

static void tell(struct handout *q, const struct job_note *note, double pause)
{
    if (q->owed == 0 && clock_seconds() - q->told >= pause)
        send_request(q, TELL, note);
}

/* -------------------------------------------------------------------------------- verbs */

void handout_serve(struct handout *q)
{
    bool given;
    int64_t job;
    if (!q->idle && (q->groups == 1 || clock_seconds() - q->looked < look_pause))
        return;
    if (comm_rank(q->all) == 0)
        serve_all(q);
    else if (leads(q) && !q->over)
        listen(q, &given, &job);
    if (comm_rank(q->all) != 0)
        report_stop(q);
}

void handout_report(struct handout *q, const struct job_note *note)
{
    if (comm_rank(q->all) == 0) {
        q->members[0].step = note->step;
        hear(q, note);
    } else if (leads(q)) {
        tell(q, note, tell_pause);
    }
    handout_serve(q);
}

struct error handout_next(struct handout *q, const struct job_note *last, int64_t *job)
{
    *job = -1;
    if (comm_rank(q->all) == 0) {
        hear(q, last);
        serve_all(q);
        *job = take_job(q);
    } else if (leads(q)) {
        ask(q, last, job);
    }
    // the rest of the group sleeps meanwhile, so that the leader is the first to notice if rank 0 hangs
    TRY(comm_wait_all(q->group, leads(q) ? 1 : 3));
    TRY(comm_agree(q->group, q->error));
    return comm_broadcast(q->group, job, sizeof *job, 0);
}

/* A leader without work waits here until no group has any. */
static void wait_for_all(struct handout *q)
{
    const struct job_note nothing = {.job = -1};
    while (!q->over && q->error.code == ERROR_NONE) {
        tell(q, &nothing, idle_pause);
        handout_serve(q);
        doze();
    }
}

struct error handout_end(struct handout *q)
{
    q->idle = true;
    if (comm_rank(q->all) == 0)
        for (serve_all(q); !all_over(q) && q->error.code == ERROR_NONE; serve_all(q))
            doze();
    else if (leads(q))
        wait_for_all(q);
    // ranks that lead no group may have been here for hours, since their last job
    TRY(comm_wait_all(q->all, leads(q) ? 1 : 0));
    return comm_agree(q->all, q->error);
}
