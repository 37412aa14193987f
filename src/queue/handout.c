#include "queue/handout.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cluster/signals.h"

static const double report_pause = 0.5; /* seconds between two reports of one leader */
static const double idle_pause = 0.1;   /* the same without work */
static const double poll_pause = 0.1;   /* seconds of work between two polls, each of which may give the core away */
static const double later_pause = 0.2;  /* seconds until a group for which no job waits asks again */
static const double slack = 3; /* seconds beyond the timeout: a rank waiting inside the group reports a hang first */

enum { REPORT, ASK_JOB, ASK_STOP }; /* to rank 0, which answers the first two */
enum {
    RECEIVED,
    NEXT_JOB,
    ALL_DONE,
    STOP_NOW,
    CANCEL
};                     /* to a leader; the last two are no answers, but come unasked */
enum { PIECE = 1024 }; /* bytes of a text in one message */

struct request {
    int64_t kind;
    struct job_status status;
};

struct answer {
    int64_t kind, job;
    int64_t bytes; /* of the job's text, which follows in pieces */
    int64_t step;  /* of rank 0's own job */
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
    bool stopped;

    /* a leader */
    bool released;      /* all groups have finished */
    int64_t working;    /* the job that its group works on; negative: none */
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
    h->working = -1;
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

static int64_t next_job(struct handout *h, int group, char **text)
{
    *text = NULL;
    return h->stopped ? HANDOUT_OVER : h->parts.next(h->parts.arg, group, text);
}

/* The pieces are short, so that no message waits until its receiver has time. */
static void send_text(struct handout *h, int rank, const char *text, int64_t bytes)
{
    for (int64_t at = 0; at < bytes; at += PIECE)
        succeeded(h, comm_send(h->parts.all, text + at, bytes - at < PIECE ? bytes - at : PIECE, rank));
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
    struct answer answer = {.kind = RECEIVED, .job = -1, .step = h->members[0].step};
    char *text = NULL;
    record(h, &request->status);
    if (request->kind == ASK_STOP)
        return;
    m->silence = 0;
    m->step = request->status.step;
    if (request->kind == ASK_JOB) {
        answer.kind = NEXT_JOB;
        answer.job = next_job(h, (int)(m - h->members), &text);
        answer.bytes = text ? (int64_t)strlen(text) : 0;
        m->finished = answer.job == HANDOUT_OVER;
    } else if (h->idle && all_finished(h)) {
        answer.kind = ALL_DONE;
        m->released = true;
    }
    succeeded(h, comm_send(h->parts.all, &answer, sizeof answer, rank));
    send_text(h, rank, text, answer.bytes);
    memory_free(text);
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

void handout_cancel(struct handout *h, int group, int64_t job)
{
    const struct answer cancel = {.kind = CANCEL, .job = job, .step = h->members[0].step};
    if (group > 0)
        succeeded(h, comm_send(h->parts.all, &cancel, sizeof cancel, leader_of(h, group)));
    else if (h->working == job)
        signals_request_cancel();
}

/* -------------------------------------------------------------------------------- other ranks */

static void send_request(struct handout *h, int64_t kind, const struct job_status *status)
{
    const struct request request = {kind, *status};
    succeeded(h, comm_send(h->parts.all, &request, sizeof request, 0));
    h->last_report = clock_seconds();
    h->unanswered += kind != ASK_STOP;
}

/* What rank 0 says besides that there is a job or none. */
static void take_answer(struct handout *h, const struct answer *answer)
{
    h->silence = 0;
    h->unanswered -= answer->kind != STOP_NOW && answer->kind != CANCEL;
    h->members[0].step = answer->step;
    h->released = answer->kind == ALL_DONE;
    if (answer->kind == STOP_NOW)
        signals_request_stop();
    if (answer->kind == CANCEL && answer->job == h->working)
        signals_request_cancel();
}

/* A leader receives rank 0's answers until one gives a job, or says that there is none; *next is then that. */
static void poll_answers(struct handout *h, bool *given, struct answer *next)
{
    struct answer answer;
    int from;
    double since = begin_poll(h);
    h->silence += h->unanswered > 0 ? since : 0;
    *given = false;
    while (!*given && succeeded(h, comm_poll(h->parts.all, &from)) && from >= 0) {
        if (!succeeded(h, comm_receive(h->parts.all, &answer, sizeof answer, from)))
            return;
        take_answer(h, &answer);
        *given = answer.kind == NEXT_JOB;
        if (*given)
            *next = answer;
    }
    check_silence(h, h->silence, 0, h->members[0].step);
}

/* The pieces of a job's text have been sent already. */
static struct error receive_text(struct handout *h, char **text, int64_t bytes)
{
    char *to = *text = memory_alloc(bytes + 1, 1);
    if (!to)
        return comm_abort(h->parts.all, error_memory("a job")); // the others would wait for this rank
    for (int64_t at = 0; at < bytes; at += PIECE)
        TRY(comm_receive(h->parts.all, to + at, bytes - at < PIECE ? bytes - at : PIECE, 0));
    return ok();
}

static void ask_job(struct handout *h, const struct job_status *last, int64_t *job, char **text)
{
    struct answer next;
    bool given = false;
    send_request(h, ASK_JOB, last);
    for (poll_answers(h, &given, &next); !given && h->error.code == ERROR_NONE; poll_answers(h, &given, &next))
        sleep_between_polls();
    if (!given)
        return;
    *job = h->working = next.job;
    if (next.bytes > 0)
        succeeded(h, receive_text(h, text, next.bytes));
}

/* A rank without work was asked to stop: no step of its group will report that. */
static void pass_on_stop(struct handout *h)
{
    const struct job_status status = {.job = -1, .state = JOB_STOPPED};
    if (h->working >= 0 || !signals_stop_requested() || h->stop_asked)
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
    struct answer next;
    if (!h->idle && (h->parts.groups == 1 || clock_seconds() - h->last_poll < poll_pause))
        return;
    if (is_root(h))
        poll_requests(h);
    else if (is_leader(h) && !h->released)
        poll_answers(h, &given, &next);
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

/* Rank 0 for its own group. While none waits, it answers the others. */
static void take_job(struct handout *h, const struct job_status *last, int64_t *job, char **text)
{
    record(h, last);
    poll_requests(h);
    *job = h->working = next_job(h, 0, text);
    for (double began = clock_seconds(); *job == HANDOUT_LATER && clock_seconds() - began < later_pause;) {
        sleep_between_polls();
        poll_requests(h);
    }
}

/* The same on a leader: until rank 0 is asked again. */
static void pause_leader(int64_t job)
{
    if (job == HANDOUT_LATER)
        clock_sleep(later_pause);
}

/* All ranks of the group get what their leader has got. A rank that was asked to stop says so here, too. */
static struct error share_job(struct handout *h, int64_t *job, char **text)
{
    bool stop = signals_stop_requested();
    int64_t size = *text ? (int64_t)strlen(*text) : 0;
    // the others wait longer, so that the leader is the first to notice if rank 0 hangs
    TRY(comm_wait_all(h->parts.group, is_leader(h) ? 1 : 3));
    TRY(comm_meet(h->parts.group, h->error, &stop));
    if (stop)
        signals_request_stop();
    TRY(comm_broadcast(h->parts.group, job, sizeof *job, 0));
    return *job >= 0 ? comm_share_text(h->parts.group, text, &size) : ok();
}

struct error handout_next(struct handout *h, const struct job_status *last, int64_t *job, char **text)
{
    *job = HANDOUT_OVER;
    *text = NULL;
    h->working = -1;
    signals_end_cancel(); // what was to be cancelled has ended, one way or another
    if (is_root(h)) {
        take_job(h, last, job, text);
    } else if (is_leader(h)) {
        pass_on_stop(h);
        ask_job(h, last, job, text);
        pause_leader(*job);
    }
    TRY(share_job(h, job, text));
    h->working = *job; // on the others, too
    return ok();
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
