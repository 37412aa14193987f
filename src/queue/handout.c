#include "queue/handout.h"

#include <stdbool.h>
#include <stddef.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cluster/signals.h"

static const double report_pause = 0.5; /* seconds between two reports of one leader */
static const double idle_pause = 0.1;   /* the same without work */
static const double poll_pause = 0.1;   /* seconds of work between two polls, each of which may give the core away */
static const double slack = 3; /* seconds beyond the timeout: a rank waiting inside the group reports a hang first */

enum { REPORT, ASK_JOB, ASK_STOP };              /* to rank 0, which answers the first two */
enum { RECEIVED, NEXT_JOB, ALL_DONE, STOP_NOW }; /* to a leader; STOP_NOW is no answer, but comes unasked */

struct request {
    int64_t kind;
    struct job_status status;
};

struct answer {
    int64_t kind, job;
    int64_t step; /* of rank 0's own job */
};

/* What rank 0 knows of a group. */
struct member {
    bool finished;  /* has got the answer that no job is left */
    bool released;  /* has got the answer that all groups have finished */
    double silence; /* seconds since its last request */
    int64_t step;   /* last reported; a leader keeps rank 0's as group 0's */
};

struct handout {
    struct handout_parts parts;
    struct member *members; /* [groups] */

    /* rank 0 */
    int64_t next; /* in the order of jobs */
    bool stopped;

    /* a leader */
    bool released;      /* all groups have finished */
    int unanswered;     /* requests that rank 0 has not answered yet */
    double last_report; /* when it was sent */
    double silence;     /* seconds for which requests have been unanswered */

    /* any rank */
    double last_poll;   /* when it was */
    bool idle;          /* in handout_end */
    bool stop_asked;    /* has reported that it was asked to stop */
    struct error error; /* the first thing that went wrong in a message */
};

int handout_group_of(int rank, int size, int groups)
{
    return (int)((int64_t)rank * groups / size);
}

/* The first rank r with r * groups / size = group. */
static int leader_of(const struct handout *h, int group)
{
    return (int)(((int64_t)group * comm_size(h->parts.all) + h->parts.groups - 1) / h->parts.groups);
}

static bool is_root(const struct handout *h)
{
    return comm_rank(h->parts.all) == 0;
}

static bool is_leader(const struct handout *h)
{
    return comm_rank(h->parts.group) == 0;
}

struct error handout_new(struct handout **handout, const struct handout_parts *parts)
{
    struct handout *h = *handout = memory_alloc(1, sizeof *h);
    if (!h)
        return error_memory("the queue");
    h->parts = *parts;
    h->last_poll = clock_seconds();
    h->members = memory_alloc(parts->groups, sizeof *h->members);
    return h->members ? ok() : error_memory("the queue");
}

void handout_free(struct handout *h)
{
    if (h)
        memory_free(h->members);
    memory_free(h);
}

/* Keeps the first error, since a tick cannot return it; handout_next and handout_end do. */
static bool succeeded(struct handout *h, struct error e)
{
    if (h->error.code == ERROR_NONE)
        h->error = e;
    return e.code == ERROR_NONE;
}

static void sleep_between_polls(void)
{
    clock_sleep(2e-3);
}

/* -------------------------------------------------------------------------------- silence */

/* Begins a poll; returns the seconds since the last one that count as silence. */
static double begin_poll(struct handout *h)
{
    double now = clock_seconds(), since = now - h->last_poll, most = h->parts.timeout / 2;
    h->last_poll = now;
    return since < most ? since : most;
}

/* Ends all ranks if a leader has been silent for too long. */
static void check_silence(struct handout *h, double silence, int rank, int64_t step)
{
    double timeout = h->parts.timeout;
    if (silence > timeout + slack)
        succeeded(h, comm_abort(h->parts.all,
                                error_failed("rank %d, which leads its group, gave no sign of life for %g s "
                                             "(cluster.timeout) after step %lld of its job: hung, or slower than that",
                                             rank, timeout, (long long)step)));
}

/* -------------------------------------------------------------------------------- rank 0 */

static int64_t next_job(struct handout *h)
{
    return h->stopped || h->next == h->parts.count ? -1 : h->parts.order[h->next++];
}

static void record(struct handout *h, const struct job_status *status)
{
    if (status->state == JOB_STOPPED)
        signals_request_stop(); // group 0 too
    if (status->job >= 0)
        h->parts.report(h->parts.arg, status);
}

/* Asks the groups that are still working to stop, once. */
static void stop_all(struct handout *h)
{
    const struct answer stop = {.kind = STOP_NOW, .job = -1};
    h->stopped = true;
    for (int group = 1; group < h->parts.groups; group++)
        if (!h->members[group].finished)
            succeeded(h, comm_send(h->parts.all, &stop, sizeof stop, leader_of(h, group)));
}

static bool all_finished(const struct handout *h)
{
    for (int group = 1; group < h->parts.groups; group++)
        if (!h->members[group].finished)
            return false;
    return true;
}

static bool all_released(const struct handout *h)
{
    for (int group = 1; group < h->parts.groups; group++)
        if (!h->members[group].released)
            return false;
    return true;
}

static void answer_request(struct handout *h, int rank, const struct request *request)
{
    struct member *m = &h->members[handout_group_of(rank, comm_size(h->parts.all), h->parts.groups)];
    struct answer answer = {RECEIVED, -1, h->members[0].step};
    record(h, &request->status);
    if (request->kind == ASK_STOP)
        return;
    m->silence = 0;
    m->step = request->status.step;
    if (request->kind == ASK_JOB) {
        answer.kind = NEXT_JOB;
        answer.job = next_job(h);
        m->finished = answer.job < 0;
    } else if (h->idle && all_finished(h)) {
        answer.kind = ALL_DONE;
        m->released = true;
    }
    succeeded(h, comm_send(h->parts.all, &answer, sizeof answer, rank));
}

static void poll_requests(struct handout *h)
{
    struct request request;
    int from;
    double since = begin_poll(h);
    for (int group = 1; group < h->parts.groups; group++)
        h->members[group].silence += since;
    if (signals_stop_requested() && !h->stopped)
        stop_all(h);
    while (succeeded(h, comm_poll(h->parts.all, &from)) && from >= 0)
        if (succeeded(h, comm_receive(h->parts.all, &request, sizeof request, from)))
            answer_request(h, from, &request);
    for (int group = 1; group < h->parts.groups; group++)
        if (!h->members[group].released)
            check_silence(h, h->members[group].silence, leader_of(h, group), h->members[group].step);
}

/* -------------------------------------------------------------------------------- other ranks */

static void send_request(struct handout *h, int64_t kind, const struct job_status *status)
{
    const struct request request = {kind, *status};
    succeeded(h, comm_send(h->parts.all, &request, sizeof request, 0));
    h->last_report = clock_seconds();
    h->unanswered += kind != ASK_STOP;
}

/* A leader receives rank 0's answers until one gives a job; *job is then set. */
static void poll_answers(struct handout *h, bool *given, int64_t *job)
{
    struct answer answer;
    int from;
    double since = begin_poll(h);
    h->silence += h->unanswered > 0 ? since : 0;
    *given = false;
    while (!*given && succeeded(h, comm_poll(h->parts.all, &from)) && from >= 0) {
        if (!succeeded(h, comm_receive(h->parts.all, &answer, sizeof answer, from)))
            return;
        h->silence = 0;
        h->unanswered -= answer.kind != STOP_NOW;
        h->members[0].step = answer.step;
        h->released = answer.kind == ALL_DONE;
        if (answer.kind == STOP_NOW)
            signals_request_stop();
        *given = answer.kind == NEXT_JOB;
        *job = *given ? answer.job : *job;
    }
    check_silence(h, h->silence, 0, h->members[0].step);
}

static void ask_job(struct handout *h, const struct job_status *last, int64_t *job)
{
    bool given = false;
    send_request(h, ASK_JOB, last);
    for (poll_answers(h, &given, job); !given && h->error.code == ERROR_NONE; poll_answers(h, &given, job))
        sleep_between_polls();
}

/* A rank without work was asked to stop: no step of its group will report that. */
static void pass_on_stop(struct handout *h)
{
    const struct job_status status = {.job = -1, .state = JOB_STOPPED};
    if (!h->idle || !signals_stop_requested() || h->stop_asked)
        return;
    h->stop_asked = true;
    send_request(h, ASK_STOP, &status);
}

static void report_if_due(struct handout *h, const struct job_status *status, double pause)
{
    if (h->unanswered == 0 && clock_seconds() - h->last_report >= pause)
        send_request(h, REPORT, status);
}

/* -------------------------------------------------------------------------------- verbs */

void handout_poll(struct handout *h)
{
    bool given;
    int64_t job;
    if (!h->idle && (h->parts.groups == 1 || clock_seconds() - h->last_poll < poll_pause))
        return;
    if (is_root(h))
        poll_requests(h);
    else if (is_leader(h) && !h->released)
        poll_answers(h, &given, &job);
    if (!is_root(h))
        pass_on_stop(h);
}

void handout_report(struct handout *h, const struct job_status *status)
{
    if (is_root(h)) {
        h->members[0].step = status->step;
        record(h, status);
    } else if (is_leader(h)) {
        report_if_due(h, status, report_pause);
    }
    handout_poll(h);
}

struct error handout_next(struct handout *h, const struct job_status *last, int64_t *job)
{
    *job = -1;
    if (is_root(h)) {
        record(h, last);
        poll_requests(h);
        *job = next_job(h);
    } else if (is_leader(h)) {
        ask_job(h, last, job);
    }
    // the others wait longer, so that the leader is the first to notice if rank 0 hangs
    TRY(comm_wait_all(h->parts.group, is_leader(h) ? 1 : 3));
    TRY(comm_agree(h->parts.group, h->error));
    return comm_broadcast(h->parts.group, job, sizeof *job, 0);
}

/* A leader without work waits here until no group has any. */
static void wait_for_release(struct handout *h)
{
    const struct job_status nothing = {.job = -1};
    while (!h->released && h->error.code == ERROR_NONE) {
        report_if_due(h, &nothing, idle_pause);
        handout_poll(h);
        sleep_between_polls();
    }
}

struct error handout_end(struct handout *h)
{
    h->idle = true;
    if (is_root(h))
        for (poll_requests(h); !all_released(h) && h->error.code == ERROR_NONE; poll_requests(h))
            sleep_between_polls();
    else if (is_leader(h))
        wait_for_release(h);
    // ranks that lead no group may have been here for hours, since their last job
    TRY(comm_wait_all(h->parts.all, is_leader(h) ? 1 : 0));
    return comm_agree(h->parts.all, h->error);
}
