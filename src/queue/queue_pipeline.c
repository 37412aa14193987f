#include "queue/queue_pipeline.h"

#include "base/log.h"
#include "queue/handout.h"

/* This rank's part: the pipeline that a job's config asks for. */
static struct error open_mine(struct queue_pipeline *q, const struct config *config, struct comm *all,
                              const struct device_kind *devices)
{
    TRY(config_copy(&q->config, config));
    const struct pipeline_choice choice = pipeline_choice_of(&q->config);
    struct error e = pipeline_open(&q->pipeline, &choice, all, devices);
    q->opened = e.code == ERROR_NONE;
    if (!q->opened)
        config_free(&q->config);
    return e;
}

struct error queue_pipeline_open(struct queue_pipeline *q, const struct config *config, struct comm *all,
                                 const struct device_kind *devices)
{
    comm_set_timeout(all, config->cluster.timeout);
    struct error e = comm_agree(all, open_mine(q, config, all, devices));
    if (e.code == ERROR_NONE)
        e = pipeline_compare(&q->pipeline, &q->config);
    if (e.code != ERROR_NONE)
        queue_pipeline_close(q);
    else if (comm_rank(all) == 0 && device_note(q->pipeline.device)[0])
        log_line("%s", device_note(q->pipeline.device));
    return e;
}

struct error queue_pipeline_divide(struct queue_pipeline *q, int groups)
{
    struct comm *all = q->pipeline.all;
    int size = comm_size(all);
    q->groups = groups;
    TRY(pipeline_divide(&q->pipeline, handout_group_of(comm_rank(all), size, groups)));
    if (comm_rank(all) == 0)
        log_line("%d rank%s in %d group%s", size, size == 1 ? "" : "s", groups, groups == 1 ? "" : "s");
    return comm_agree(all, pipeline_link(&q->pipeline, &q->config));
}

struct error queue_pipeline_load(struct queue_pipeline *q)
{
    if (q->loaded)
        return ok();
    pipeline_log_loading(&q->pipeline);
    TRY(pipeline_load(&q->pipeline));
    q->loaded = true;
    return ok();
}

void queue_pipeline_close(struct queue_pipeline *q)
{
    if (!q->opened)
        return;
    pipeline_close(&q->pipeline);
    config_free(&q->config);
    q->opened = q->loaded = false;
    q->groups = 0;
}
