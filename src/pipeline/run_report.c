#include "pipeline/run_report.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "files/file.h"
#include "report/gain.h"
#include "report/report.h"

enum { FACTS = 16, FACT_TEXT = 200 };

/* Names, each with its text. */
struct facts {
    const char *pairs[2 * FACTS];
    char texts[FACTS][FACT_TEXT];
    int64_t count;
};

__attribute__((format(printf, 3, 4))) static void add_fact(struct facts *f, const char *name, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(f->texts[f->count], FACT_TEXT, format, arguments);
    va_end(arguments);
    f->pairs[2 * f->count] = name;
    f->pairs[2 * f->count + 1] = f->texts[f->count];
    f->count++;
}

/* What was learned with what, by hash: files may be moved and renamed. */
static struct error add_hashes(struct facts *f, const struct learning *l)
{
    const struct config *c = &l->subject->config;
    char path[PATH_SIZE];
    uint32_t word;
    TRY(path_join(path, c->output.dir, "learned_embeds.safetensors"));
    TRY(file_crc(path, &word));
    add_fact(f, "word", "CRC-32 %08x (%s)", word, path_name(path));
    add_fact(f, "model", "CRC-32 %08x", l->subject->pipeline->contents);
    return ok();
}

/* When, where and by which program. */
static void add_origin(struct facts *f)
{
    char date[64] = "", host[128] = "unknown";
    time_t now = (time_t)clock_date();
    struct tm parts;
    if (localtime_r(&now, &parts))
        strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S %z", &parts);
    gethostname(host, sizeof host - 1);
    add_fact(f, "zoodip", "%s", ZOODIP_VERSION);
    add_fact(f, "date", "%s", date);
    add_fact(f, "host", "%s", host);
}

static void add_looks(struct facts *f, const struct training *t)
{
    const struct looked *l = &t->state.looked;
    add_fact(f, "validation loss at the start", "%.5f, over %lld fixed draws%s", l->start, (long long)l->draws,
             t->parts.config->data.hold_out ? " of the picture held out" : "");
    add_fact(f, "validation loss at the end", "%.5f", l->newest);
}

/* How far its slopes were from exact ones. */
static void add_noise(struct facts *f, const struct training *t)
{
    const struct slope_noise *n = &t->state.noise;
    bool enough;
    double noise = slope_noise_of(n, &enough);
    if (n->compared > 0)
        add_fact(f, "noise of slopes in 8 bits", "%.1f %%, in the last %lld compared%s", 100 * noise,
                 (long long)n->count, enough ? "" : ": too few for a verdict");
    if (n->fallen)
        add_fact(f, "in floats all the same", "%s%s%s", "attention", n->fallen & CODES_CONV ? ", convolutions" : "",
                 n->fallen & CODES_LINEAR ? ", linear layers" : "");
}

static void add_run(struct facts *f, const struct learning *l)
{
    const struct pipeline *p = l->subject->pipeline;
    const struct training *t = &l->training;
    add_fact(f, "device", "%s", device_name(p->device));
    add_fact(f, "ranks", "%d", comm_size(p->comm));
    add_fact(f, "derivative", "%s", derivative_name(l->subject->config.zo.derivative));
    add_noise(f, t);
    char why[ENDING_TEXT];
    ending_why(why, &t->state.ending, t->parts.config);
    add_fact(f, "steps", "%lld%s%s", (long long)t->state.step, why[0] ? ", ended by " : "", why);
    add_fact(f, "time", "%.1f s in steps, %.1f s in all (this run)", t->seconds, clock_seconds() - l->started);
    add_looks(f, t);
    add_fact(f, "peak memory", "%.0f MB on rank 0", (double)memory_peak() / (1 << 20));
}

/* In words, what was learned. */
static void describe(char *text, size_t size, const struct learning *l)
{
    char gain[GAIN_TEXT];
    learning_gain(l, gain);
    snprintf(text, size, gain[0] ? "The word is that of %s." : "%s", gain);
}

struct error run_report_write(const struct learning *l, const struct pictures *pictures)
{
    const struct config *c = &l->subject->config;
    const struct training *t = &l->training;
    struct facts facts = {.count = 0};
    char title[300], summary[GAIN_TEXT + 40];
    snprintf(title, sizeof title, "%s: a word learned by zoodip", c->token.placeholder);
    describe(summary, sizeof summary, l);
    TRY(add_hashes(&facts, l));
    add_run(&facts, l);
    add_origin(&facts);
    char *json = config_json(c);
    if (!json)
        return error_memory("the report");
    const struct report report = {
        .title = title,
        .summary = summary[0] ? summary : NULL,
        .pictures = pictures->shown,
        .facts = facts.pairs,
        .fact_count = facts.count,
        .config = json,
        .last_step = t->state.step,
    };
    struct error e = report_write(c->output.dir, &report);
    memory_free(json);
    return e;
}
