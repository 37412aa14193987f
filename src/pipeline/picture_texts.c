#include "pipeline/picture_texts.h"

#include <stdio.h>

#include "base/memory.h"
#include "model/embedding.h"
#include "model/sampler.h"
#include "pipeline/model_label.h"
#include "pipeline/words.h"
#include "report/parameters.h"
#include "text/captions.h"

struct error picture_prompt(const struct subject *s, const char *word, int64_t prompt, char **text)
{
    return captions_fill(s->config.output.prompts.items[prompt], word, text);
}

int64_t picture_seed(const struct subject *s, int64_t prompt)
{
    return (int64_t)((uint64_t)s->config.seed + (uint64_t)prompt);
}

/* *names: whether the text encoder gets the learned word with a prompt. */
static struct error find_word(const struct subject *s, const char *text, bool *names)
{
    int32_t *ids = memory_alloc(s->length, sizeof *ids);
    if (!ids)
        return error_memory("a prompt");
    struct error e = tokenizer_encode(s->tokenizer, text, ids, s->length);
    *names = false;
    for (int64_t i = 0; i < s->length && e.code == ERROR_NONE; i++)
        *names = *names || (ids[i] >= s->first_id && ids[i] < s->first_id + s->config.token.vectors);
    memory_free(ids);
    return e;
}

static struct error describe(const struct subject *s, int64_t prompt, const char *text, const char *hashes,
                             char **parameters)
{
    const struct config *c = &s->config;
    const struct noise_schedule *schedule = &s->pipeline->schedule;
    const struct sampler_type *sampler = sampler_default(schedule);
    struct model_label label;
    TRY(model_label_read(&label, s->pipeline));
    const struct parameters p = {
        .prompt = text,
        .negative = "",
        .sampler = sampler_label(sampler),
        .schedule = sampler_schedule_label(schedule, sampler),
        .steps = c->output.sample_steps,
        .seed = picture_seed(s, prompt),
        .width = s->resolution,
        .height = s->resolution,
        .guidance = c->output.guidance,
        .bits = (int)c->quant.bits,
        .model = label.name,
        .model_hash = label.hash,
        .word_hashes = hashes,
        .plain = true,
    };
    return parameters_text(&p, parameters);
}

struct error picture_parameters(const struct subject *s, int64_t prompt, const float *embedding, char **text)
{
    const struct config *c = &s->config;
    char hash[SHA256_TEXT], hashes[512] = "", *filled;
    bool names;
    *text = NULL;
    TRY(picture_prompt(s, c->token.placeholder, prompt, &filled));
    struct error e = find_word(s, filled, &names);
    if (e.code == ERROR_NONE && names)
        e = embedding_hash(hash, c->token.placeholder, embedding, c->token.vectors, s->pipeline->text_config.width);
    if (e.code == ERROR_NONE && names)
        snprintf(hashes, sizeof hashes, "%.400s: %.*s", c->token.placeholder, WORD_HASH, hash);
    if (e.code == ERROR_NONE)
        e = describe(s, prompt, filled, hashes, text);
    memory_free(filled);
    return e;
}

struct error picture_command(const struct subject *s, int64_t prompt, const char *text, const char *file,
                             struct draw_command *command)
{
    const struct config *c = &s->config;
    bool names;
    TRY(find_word(s, text, &names));
    *command = (struct draw_command){
        .model = c->model,
        .tokenizer = c->tokenizer,
        .prediction = c->prediction,
        .device = device_identity(s->pipeline->device) ? "cuda" : "cpu",
        .embedding = names ? file : NULL,
        .prompt = text,
        .sampler = sampler_name(sampler_default(&s->pipeline->schedule)),
        .steps = c->output.sample_steps,
        .seed = picture_seed(s, prompt),
        .width = s->resolution,
        .height = s->resolution,
        .guidance = c->output.guidance,
        .bits = (int)c->quant.bits,
    };
    return ok();
}
