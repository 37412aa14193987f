#include "zo/records.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "files/file.h"
#include "model/embedding.h"
#include "zo/checkpoint.h"
#include "zo/previous.h"
#include "zo/train.h"

static const char best_name[] = "learned_embeds.safetensors", last_name[] = "learned_embeds-last.safetensors",
                  params_name[] = "learned_embeds-emb_params.safetensors";

enum { NAME_SIZE = 64 };

/* The name of the word of one step. */
static void step_name(char name[NAME_SIZE], int64_t step)
{
    snprintf(name, NAME_SIZE, "learned_embeds-steps-%lld.safetensors", (long long)step);
}

/* What the tensor in a file of that name is called. */
static const char *tensor_name(const struct training *t, const char *name)
{
    return strcmp(name, params_name) == 0 ? "emb_params" : t->parts.config->token.placeholder;
}

static struct error write_word(const struct training *t, const char *name, const float *rows)
{
    const struct config *c = t->parts.config;
    char path[PATH_SIZE];
    TRY(path_join(path, c->output.dir, name));
    int64_t vectors = c->token.vectors;
    return embedding_write(path, tensor_name(t, name), rows, vectors, t->state.dim / vectors);
}

/* Adds the present word to those to be written. */
static struct error add_word(struct training *t)
{
    struct records *r = &t->records;
    if (r->word_count > 0 && r->words[r->word_count - 1].step == t->state.step)
        return ok(); // the save of this step is tried again
    struct unwritten_word *more = memory_grow(r->words, r->word_count, &r->word_room, sizeof *more);
    r->words = more ? more : r->words;
    float *rows = more ? memory_alloc(t->state.dim, sizeof *rows) : NULL;
    if (!rows)
        return error_memory("a learned word");
    memcpy(rows, t->state.embedding, (size_t)t->state.dim * sizeof *rows);
    r->words[r->word_count++] = (struct unwritten_word){t->state.step, rows};
    return ok();
}

/* The newest word, and the best so far, which follow each other. */
static struct error write_newest(const struct training *t, const float *rows)
{
    const float *best = t->state.looked.best_step > 0 ? t->state.best : rows;
    struct error e = write_word(t, last_name, rows);
    if (t->parts.config->output.emb_params)
        e = error_first(e, write_word(t, params_name, best));
    return error_first(e, write_word(t, best_name, best));
}

/* Writes the words that are still to be written; those that cannot be stay. */
static struct error write_words(struct training *t)
{
    struct records *r = &t->records;
    struct error all = ok();
    int64_t left = 0;
    for (int64_t i = 0; i < r->word_count; i++) {
        char name[NAME_SIZE];
        step_name(name, r->words[i].step);
        struct error e = write_word(t, name, r->words[i].rows);
        if (i == r->word_count - 1)
            e = error_first(e, write_newest(t, r->words[i].rows));
        if (e.code == ERROR_NONE)
            memory_free(r->words[i].rows);
        else
            r->words[left++] = r->words[i];
        all = error_first(all, e);
    }
    r->word_count = left;
    return all;
}

/* The run has a checkpoint. Results that cannot be removed do no harm. */
static void remove_previous(const struct training *t)
{
    struct error e = previous_remove(t->parts.config->output.dir);
    if (e.code != ERROR_NONE)
        log_warning("%s", e.text);
}

static struct error check_folder(const struct training *t)
{
    return t->calls && t->calls->check ? t->calls->check(t->calls->arg) : ok();
}

static struct error save_checkpoint(struct training *t)
{
    const struct config *c = t->parts.config;
    char folder[PATH_SIZE];
    TRY(path_join(folder, c->output.dir, "checkpoints"));
    t->records.last_checkpoint = clock_seconds();
    TRY(check_folder(t)); // again: words have been written meanwhile, which may take long
    TRY(checkpoint_write(&t->state, folder, &t->parts.origin, c->output.checkpoint_keep));
    remove_previous(t);
    return ok();
}

static bool checkpoint_due(const struct training *t)
{
    const struct config *c = t->parts.config;
    double minutes = c->output.checkpoint_minutes;
    return state_due(&t->state, c->output.checkpoint_every) ||
           (minutes > 0 && clock_seconds() - t->records.last_checkpoint >= 60 * minutes);
}

/* All that is not on the disk yet. Each file is tried even if the one before failed: a full disk may still have room for
 * the smallest. */
static struct error write_files(struct training *t, bool checkpoint)
{
    TRY(check_folder(t));
    struct error e = metrics_flush(t->records.metrics);
    e = error_first(e, write_words(t));
    return checkpoint ? error_first(e, save_checkpoint(t)) : e;
}

/* e: an earlier error. Returns the first one. */
static struct error save(struct training *t, bool checkpoint, bool embedding, struct error e)
{
    // without the device's moments a resume would have nothing to continue from
    struct error got = checkpoint ? step_get(&t->step, &t->state) : ok();
    e = error_first(e, got);
    if (embedding)
        e = error_first(e, add_word(t));
    if (checkpoint || embedding)
        e = error_first(e, write_files(t, checkpoint && got.code == ERROR_NONE));
    if (checkpoint || embedding || e.code != ERROR_NONE)
        t->records.unsaved = e;
    return e;
}

static void warn_of(struct error e, bool last)
{
    if (e.code != ERROR_NONE)
        log_warning("%s; %s", e.text,
                    last ? "trying once more" : "training continues and tries again at the next save");
}

void records_keep(struct training *t, const struct metric *m, bool last)
{
    bool embedding = state_due(&t->state, t->parts.config->output.save_every);
    warn_of(save(t, last || checkpoint_due(t), last || embedding, metrics_add(t->records.metrics, m)), last);
}

void records_save(struct training *t)
{
    warn_of(save(t, true, true, ok()), true);
}

/* Writes a word under one name, unless it is there already. */
static struct error keep_word(const struct training *t, const char *name, const float *rows, int64_t step)
{
    const struct config *c = t->parts.config;
    char path[PATH_SIZE];
    int64_t vectors = c->token.vectors;
    TRY(path_join(path, c->output.dir, name));
    if (embedding_is(path, tensor_name(t, name), rows, vectors, t->state.dim / vectors))
        return ok();
    TRY(write_word(t, name, rows));
    log_line("%s: was missing, or was not the word of step %lld: written anew", path, (long long)step);
    return ok();
}

struct error records_keep_words(const struct training *t)
{
    const struct state *s = &t->state;
    char name[NAME_SIZE];
    TRY(check_folder(t));
    step_name(name, s->step);
    struct error e = keep_word(t, name, s->embedding, s->step);
    e = error_first(e, keep_word(t, last_name, s->embedding, s->step));
    if (t->parts.config->output.emb_params)
        e = error_first(e, keep_word(t, params_name, state_kept(s), state_kept_step(s)));
    return error_first(e, keep_word(t, best_name, state_kept(s), state_kept_step(s)));
}

struct error records_finish(struct training *t)
{
    struct error e = t->records.unsaved;
    if (e.code != ERROR_NONE)
        e = save(t, true, true, ok());
    if (e.code == ERROR_NONE)
        e = records_keep_words(t);
    return error_in(e, "%s: the last save failed", t->parts.config->output.dir);
}

struct error records_open(struct training *t)
{
    const char *folder = t->parts.config->output.dir;
    t->records = (struct records){.last_checkpoint = clock_seconds()};
    TRY(check_folder(t));
    if (t->state.step > 0)
        remove_previous(t); // that step's checkpoint has been read
    else if (previous_kept(folder))
        log_line("%s/previous: holds the results from before --overwrite, until this run has a checkpoint", folder);
    return metrics_open(&t->records.metrics, t->parts.config->output.dir, t->state.step);
}

void records_close(struct training *t)
{
    struct records *r = &t->records;
    metrics_close(r->metrics);
    for (int64_t i = 0; i < r->word_count; i++)
        memory_free(r->words[i].rows);
    memory_free(r->words);
    *r = (struct records){0};
}
