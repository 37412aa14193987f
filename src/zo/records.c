#include "zo/records.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "files/file.h"
#include "model/embedding.h"
#include "zo/checkpoint.h"
#include "zo/train.h"

static struct error write_embedding(const struct training *t, const char *name)
{
    const struct config *c = t->parts.config;
    char path[PATH_SIZE];
    TRY(path_join(path, c->output.dir, name));
    int64_t vectors = c->token.vectors;
    return embedding_write(path, c->token.placeholder, t->state.embedding, vectors, t->state.dim / vectors);
}

static struct error save_embedding(const struct training *t)
{
    char name[64];
    snprintf(name, sizeof name, "learned_embeds-steps-%lld.safetensors", (long long)t->state.step);
    TRY(write_embedding(t, name));
    return write_embedding(t, "learned_embeds.safetensors");
}

static struct error save_checkpoint(struct training *t)
{
    const struct config *c = t->parts.config;
    char folder[PATH_SIZE];
    TRY(path_join(folder, c->output.dir, "checkpoints"));
    t->records.last_checkpoint = clock_seconds();
    return checkpoint_write(&t->state, folder, t->parts.recipe, c->output.checkpoint_keep);
}

static bool checkpoint_due(const struct training *t)
{
    const struct config *c = t->parts.config;
    double minutes = c->output.checkpoint_minutes;
    return state_due(&t->state, c->output.checkpoint_every) ||
           (minutes > 0 && clock_seconds() - t->records.last_checkpoint >= 60 * minutes);
}

/* e: an earlier error. */
static void save(struct training *t, bool checkpoint, bool embedding, struct error e)
{
    // without the device's moments a resume would have nothing to continue from
    struct error got = checkpoint ? step_get(&t->step, &t->state) : ok();
    e = error_first(e, got);
    // each file is tried even if the one before failed: a full disk may still have room for the smallest
    if (checkpoint || embedding)
        e = error_first(e, metrics_flush(t->records.metrics));
    if (embedding)
        e = error_first(e, save_embedding(t));
    if (checkpoint && got.code == ERROR_NONE)
        e = error_first(e, save_checkpoint(t));
    if (!checkpoint && !embedding && e.code == ERROR_NONE)
        return;
    t->records.unsaved = e.code != ERROR_NONE;
    if (t->records.unsaved)
        log_warning("%s; training continues and tries again at the next save", e.text);
}

void records_keep(struct training *t, const struct metric *m, bool last)
{
    bool embedding = state_due(&t->state, t->parts.config->output.save_every);
    save(t, last || checkpoint_due(t), last || embedding, metrics_add(t->records.metrics, m));
}

void records_save(struct training *t)
{
    save(t, true, true, ok());
}

struct error records_saved(const struct training *t)
{
    return t->records.unsaved ? error_failed("%s: the last save failed", t->parts.config->output.dir) : ok();
}

struct error records_open(struct training *t)
{
    t->records = (struct records){.last_checkpoint = clock_seconds()};
    return metrics_open(&t->records.metrics, t->parts.config->output.dir, t->state.step);
}

void records_close(struct training *t)
{
    metrics_close(t->records.metrics);
    t->records.metrics = NULL;
}
