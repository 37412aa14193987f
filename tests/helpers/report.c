/* report write FOLDER FROM_STEP COUNT      metrics of the steps FROM_STEP + 1 .. FROM_STEP + COUNT: made up, repeatable
 * report page FOLDER TEXT PHOTOS PROMPTS   loss.png, grid.png, thumbnail.jpg and report.html up to step 600, of so many
 *                                          pictures; all that can be said is TEXT
 * report picture FOLDER STEP TAG           a picture in TensorBoard's file
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "helper.h"
#include "report/metrics.h"
#include "report/plot.h"
#include "report/report.h"
#include "report/sheet.h"
#include "report/thumbnail.h"

static struct error write_steps(const char *folder, int64_t from, int64_t count)
{
    struct metrics *metrics;
    TRY(metrics_open(&metrics, folder, from));
    struct error e = ok();
    for (int64_t step = from + 1; step <= from + count && e.code == ERROR_NONE; step++) {
        double noise = fmod((double)step * 0.6180339887498949, 1), fall = exp(-(double)step / 200);
        double loss = (0.02 + 0.01 * fall) * (0.4 + 1.2 * noise);
        struct metric m = {
            .step = step,
            .loss = step == 7 ? INFINITY : loss,
            .losses = (const double[]){loss, loss / 3, 0.1 + 1e-17 * (double)step},
            .loss_count = 3,
            .slopes = (const double[]){loss / 7, -1 / loss},
            .slope_count = 2,
            .validation = step % 50 == 1 ? 0.0244 + 0.0062 * fall : NAN,
            .slope_noise = step % 20 == 2 ? fall / 50 : NAN,
            .best_step = step,
            .start = step == 1 ? 0.0306 : NAN,
            .grad_norm = 1.0 / 3,
            .removed = step / 16,
            .lr = 0.03,
            .seconds = 0.01,
            .evaluations_per_second = 300,
        };
        e = metrics_add(metrics, &m);
    }
    if (e.code == ERROR_NONE)
        e = metrics_flush(metrics);
    metrics_close(metrics);
    return e;
}

/* Pictures of one colour each, from a subject that was never there. */
static struct error make_pictures(struct picture *pictures, int64_t count, int shade)
{
    for (int64_t i = 0; i < count; i++) {
        TRY(picture_new(&pictures[i], 64, 48));
        for (int64_t j = 0; j < 3 * 64 * 48; j++)
            pictures[i].rgb[j] = (uint8_t)(shade ? shade + i : j * 7);
    }
    return ok();
}

enum { MOST = 64 };

static struct error write_page(const char *folder, const char *text, int64_t photos, int64_t prompts)
{
    static struct picture pictures[3][MOST];
    const char *texts[MOST];
    for (int i = 0; i < MOST; i++)
        texts[i] = text;
    TRY(make_pictures(pictures[0], photos, 0));
    TRY(make_pictures(pictures[1], prompts, 70));
    TRY(make_pictures(pictures[2], prompts, 160));
    const struct report report = {
        .title = text,
        .summary = text,
        .pictures = {pictures[0], texts, photos, texts, pictures[1], pictures[2], prompts, text, text, NULL, NULL},
        .facts = texts,
        .fact_count = 1,
        .config = text,
        .last_step = 600,
    };
    struct error e = plot_write(folder);
    e = error_first(e, sheet_write(folder, &report.pictures, 64));
    e = error_first(e, thumbnail_write(folder, &report.pictures));
    e = error_first(e, report_write(folder, &report));
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < MOST; j++)
            picture_free(&pictures[i][j]);
    return e;
}

/* Into TensorBoard's file; the picture is the page's first photo. */
static struct error add_picture(const char *folder, int64_t step, const char *tag)
{
    struct metrics *metrics;
    struct picture picture;
    TRY(make_pictures(&picture, 1, 0));
    TRY(metrics_open(&metrics, folder, 0));
    struct error e = metrics_add_picture(metrics, step, tag, &picture);
    metrics_close(metrics);
    picture_free(&picture);
    return e;
}

int main(int argc, char **argv)
{
    struct error e =
        error_input("usage: report write FOLDER FROM_STEP COUNT | report page FOLDER TEXT PHOTOS PROMPTS | "
                    "report picture FOLDER STEP TAG");
    if (argc == 5 && strcmp(argv[1], "write") == 0)
        e = write_steps(argv[2], atoll(argv[3]), atoll(argv[4]));
    if (argc == 6 && strcmp(argv[1], "page") == 0)
        e = write_page(argv[2], argv[3], atoll(argv[4]) % (MOST + 1), atoll(argv[5]) % (MOST + 1));
    if (argc == 5 && strcmp(argv[1], "picture") == 0)
        e = add_picture(argv[2], atoll(argv[3]), argv[4]);
    return helper_end("report", e);
}
