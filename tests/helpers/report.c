/* report write FOLDER FROM_STEP COUNT      metrics of the steps FROM_STEP + 1 .. FROM_STEP + COUNT: made up, repeatable
 * report page FOLDER TITLE CAPTION FACT    loss.png and report.html, with TITLE as config too and one 64 x 48 picture
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "helper.h"
#include "report/metrics.h"
#include "report/plot.h"
#include "report/report.h"

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

static struct error write_page(const char *folder, const char *title, const char *caption, const char *fact)
{
    struct picture picture;
    TRY(picture_new(&picture, 64, 48));
    for (int64_t i = 0; i < 3 * 64 * 48; i++)
        picture.rgb[i] = (uint8_t)(i * 7);
    struct report_picture shown = {caption, &picture};
    struct error e = plot_write(folder);
    if (e.code == ERROR_NONE)
        e = report_write(folder, title, title, (const char *const[]){fact, fact}, 1, &shown, 1);
    picture_free(&picture);
    return e;
}

int main(int argc, char **argv)
{
    struct error e = error_input("usage: report write FOLDER FROM_STEP COUNT | report page FOLDER TITLE CAPTION FACT");
    if (argc == 5 && strcmp(argv[1], "write") == 0)
        e = write_steps(argv[2], atoll(argv[3]), atoll(argv[4]));
    if (argc == 6 && strcmp(argv[1], "page") == 0)
        e = write_page(argv[2], argv[3], argv[4], argv[5]);
    return helper_end("report", e);
}
