#include "queue/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "cluster/share.h"

static int compare_costs(const void *a, const void *b, void *arg)
{
    const struct job *items = arg, *one = &items[*(const int64_t *)a], *other = &items[*(const int64_t *)b];
    if (one->cost != other->cost)
        return one->cost > other->cost ? -1 : 1;
    return (one > other) - (one < other);
}

int64_t schedule_order(const struct jobs *jobs, int64_t *order)
{
    int64_t count = 0;
    for (int64_t i = 0; i < jobs->count; i++)
        if (job_is_pending(&jobs->items[i]))
            order[count++] = i;
    if (count > 1)
        qsort_r(order, (size_t)count, sizeof *order, compare_costs, jobs->items);
    return count;
}

/* The cost of a step for a group, in evaluations: the largest share of a rank (tangents, and the pictures that they
 * belong to), plus a part that each rank pays however few evaluations it has (reading and unpacking weights, exchanging
 * losses). */
static double step_cost(const struct job *job, int ranks, enum derivative unsettled)
{
    static const double each_rank = 0.25;
    const struct config *c = &job->config;
    bool tangents = (c->zo.derivative == DERIVATIVE_AUTO ? unsettled : c->zo.derivative) == DERIVATIVE_TANGENT;
    const struct share_work work = {
        .pieces = tangents ? c->zo.n * c->optim.batch_size : job->lanes, .group = tangents ? c->zo.n : 0, .gamma = 1};
    return each_rank + share_cost(&work, share_of(work.pieces, 0, ranks));
}

/* The group that is free first. busy [groups]. */
static double *first_free(double *busy, int groups)
{
    double *free = busy;
    for (int g = 1; g < groups; g++)
        if (busy[g] < *free)
            free = &busy[g];
    return free;
}

/* How long the queue takes with this many groups, if each job goes to the group that is free first. busy [groups]. */
static double queue_cost(const struct jobs *jobs, const int64_t *order, int64_t count, int ranks, int groups,
                         enum derivative unsettled, double *busy)
{
    double longest = 0;
    memset(busy, 0, (size_t)groups * sizeof *busy);
    for (int64_t i = 0; i < count; i++) {
        const struct job *job = &jobs->items[order[i]];
        double *free = first_free(busy, groups);
        *free += job->cost / (double)job->lanes * step_cost(job, ranks / groups, unsettled);
        longest = *free > longest ? *free : longest;
    }
    return longest;
}

int schedule_groups(const struct jobs *jobs, int ranks, enum derivative unsettled)
{
    int64_t *order = memory_alloc(jobs->count, sizeof *order);
    double *busy = memory_alloc(ranks, sizeof *busy);
    int best = 1;
    double least = 0;
    int64_t count = order && busy ? schedule_order(jobs, order) : 0;
    for (int groups = 1; groups <= ranks && groups <= count; groups++) {
        double cost = queue_cost(jobs, order, count, ranks, groups, unsettled, busy);
        if (groups == 1 || cost < least) {
            least = cost;
            best = groups;
        }
    }
    memory_free(order);
    memory_free(busy);
    return best;
}

/* -------------------------------------------------------------------------------- how long it will take */

/* The part of a job's steps that this run has done, 0 to 1. */
static double part_done(const struct job *job)
{
    int64_t last = job->status.last > 0 ? job->status.last : job->steps;
    double part = last > 0 && job->first_step >= 0 ? (double)(job->status.step - job->first_step) / (double)last : 0;
    return part < 0 ? 0 : part > 1 ? 1 : part;
}

/* Seconds of a group for each unit of cost, over all that this run has learned; NAN if it has not learned anything. A job
 * under way counts from its first step on. */
static double pace(const struct jobs *jobs, double now)
{
    double seconds = 0, cost = 0;
    for (int64_t i = 0; i < jobs->count; i++) {
        const struct job *job = &jobs->items[i];
        double part = part_done(job);
        if (job->begun <= 0 || part <= 0 || job->status.step <= job->first_step + 1)
            continue; // one whose steps were all done before tells nothing
        seconds += (job->status.finished > 0 ? job->status.finished : now) - job->begun;
        cost += part * job->cost;
    }
    return cost > 0 ? seconds / cost : NAN;
}

/* Of a job that a group works on: by its own outlook, or if that tells less (a phase's end is not the job's) by the
 * pace. */
static double seconds_left(const struct job *job, double each, double now)
{
    int64_t last = job->status.last > 0 ? job->status.last : job->steps;
    double steps = last > 0 ? (double)(last - job->status.step) / (double)last * job->cost * each : 0;
    double since = now - job->status.moved, known = job->status.left > since ? job->status.left - since : 0;
    return steps > known ? steps : known;
}

double schedule_left(const struct jobs *jobs, int groups)
{
    double now = clock_date(), each = pace(jobs, now), longest = 0;
    double *busy = memory_alloc(groups, sizeof *busy);
    int64_t *order = memory_alloc(jobs->count, sizeof *order);
    int64_t count = busy && order && isfinite(each) ? schedule_order(jobs, order) : 0;
    for (int64_t i = 0; i < count; i++) {
        const struct job *job = &jobs->items[order[i]];
        int64_t group = job->status.group;
        if (job->status.state == JOB_RUNNING && group >= 0 && group < groups)
            busy[group] = seconds_left(job, each, now);
    }
    for (int64_t i = 0; i < count; i++)
        if (jobs->items[order[i]].status.state != JOB_RUNNING)
            *first_free(busy, groups) += jobs->items[order[i]].cost * each;
    for (int g = 0; g < groups && count > 0; g++)
        longest = busy[g] > longest ? busy[g] : longest;
    memory_free(busy);
    memory_free(order);
    return count > 0 ? longest : NAN;
}
