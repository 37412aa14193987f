#include "report/plot.h"

#include <math.h>
#include <string.h>

#include "files/file.h"
#include "files/picture.h"
#include "report/chart.h"
#include "report/pen.h"

enum { WIDTH = 1280, HEIGHT = 720, LEFT = 130, RIGHT = 40, TOP = 80, BOTTOM = 90 };

static const struct color paper = {{255, 255, 255}}, grid = {{226, 230, 236}}, ink = {{75, 85, 99}};
static const struct color dots = {{120, 150, 190}}, line = {{29, 78, 216}}, marks = {{217, 84, 20}};

static double place_x(const struct chart *chart, double step)
{
    return LEFT + axis_part(&chart->x, step) * (WIDTH - LEFT - RIGHT);
}

static double place_y(const struct chart *chart, double value)
{
    return HEIGHT - BOTTOM - axis_part(&chart->y, value) * (HEIGHT - TOP - BOTTOM);
}

/* The mark of the best validation. */
static void put_ring(struct picture *p, double x, double y)
{
    pen_stroke(p, x, y, x, y, 14, marks, 1);
    pen_stroke(p, x, y, x, y, 10.5, paper, 1);
    pen_stroke(p, x, y, x, y, 5, marks, 1);
}

static void put_axes(struct picture *p, const struct chart *chart)
{
    const double unit = 2.8;
    char text[64];
    for (int i = 0; i < chart->y.tick_count; i++) {
        double y = place_y(chart, chart->y.ticks[i]);
        pen_stroke(p, LEFT, y, WIDTH - RIGHT, y, 0.5, grid, 1);
        snprintf(text, sizeof text, "%.*f", chart->y.decimals, chart->y.ticks[i]);
        pen_text(p, text, LEFT - 18 - pen_text_width(text, unit), y - PEN_CAPITAL * unit / 2, unit, ink);
    }
    pen_text(p, "loss", LEFT - 18 - pen_text_width("loss", unit), 32, unit, ink);
    for (int i = 0; i < chart->x.tick_count; i++) {
        double x = place_x(chart, chart->x.ticks[i]);
        pen_stroke(p, x, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 7, 0.6, ink, 1);
        snprintf(text, sizeof text, "%.0f", chart->x.ticks[i]);
        pen_text(p, text, x - pen_text_width(text, unit) / 2, HEIGHT - BOTTOM + 18, unit, ink);
    }
    pen_stroke(p, LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, 0.8, ink, 1);
    pen_text(p, "step", WIDTH - RIGHT - pen_text_width("step", unit), HEIGHT - 38, unit, ink);
}

static void put_legend(struct picture *p, const struct chart *chart)
{
    const double unit = 2.8, y = 32, middle = y + 4 * 2.8;
    char text[64];
    pen_stroke(p, LEFT + 8, middle, LEFT + 8, middle, 3.5, dots, 1);
    pen_text(p, "loss", LEFT + 28, y, unit, ink);
    pen_stroke(p, LEFT + 150, middle, LEFT + 190, middle, 2, line, 1);
    pen_text(p, "running mean", LEFT + 206, y, unit, ink);
    pen_stroke(p, LEFT + 448, middle, LEFT + 448, middle, 6, marks, 1);
    pen_text(p, "validation", LEFT + 470, y, unit, ink);
    if (chart->best < 0)
        return;
    snprintf(text, sizeof text, "best: step %lld", (long long)chart->looks[chart->best].step);
    put_ring(p, LEFT + 688, middle);
    pen_text(p, text, LEFT + 714, y, unit, ink);
}

static void put_losses(struct picture *p, const struct chart *chart)
{
    // the more points, the fainter, so that the mean stands out
    double alpha = fmin(fmax(400.0 / (double)chart->lines.count, 0.12), 0.6);
    for (int64_t i = 0; i < chart->lines.count; i++)
        if (chart_shows(chart, chart->lines.losses[i])) {
            double x = place_x(chart, (double)chart->lines.steps[i]), y = place_y(chart, chart->lines.losses[i]);
            pen_stroke(p, x, y, x, y, 2, dots, alpha);
        }
    for (int64_t i = 1; i < chart->lines.count; i++)
        if (isfinite(chart->mean[i - 1]) && isfinite(chart->mean[i]))
            pen_stroke(p, place_x(chart, (double)chart->lines.steps[i - 1]), place_y(chart, chart->mean[i - 1]),
                       place_x(chart, (double)chart->lines.steps[i]), place_y(chart, chart->mean[i]), 1.5, line, 1);
}

static void put_validations(struct picture *p, const struct chart *chart)
{
    double last_x = NAN, last_y = NAN;
    for (int64_t i = 0; i < chart->look_count; i++) {
        double x = place_x(chart, (double)chart->looks[i].step), y = place_y(chart, chart->looks[i].loss);
        if (isfinite(last_x))
            pen_stroke(p, last_x, last_y, x, y, 1, marks, 0.6);
        pen_stroke(p, x, y, x, y, 7, paper, 1);
        pen_stroke(p, x, y, x, y, 5, marks, 1);
        last_x = x;
        last_y = y;
    }
    if (chart->best >= 0)
        put_ring(p, place_x(chart, (double)chart->looks[chart->best].step),
                 place_y(chart, chart->looks[chart->best].loss));
}

struct error plot_write(const char *folder)
{
    struct chart chart;
    struct picture p;
    char path[PATH_SIZE];
    TRY(path_join(path, folder, "loss.png"));
    TRY(chart_read(&chart, folder));
    struct error e = picture_new(&p, WIDTH, HEIGHT);
    if (e.code != ERROR_NONE) {
        chart_free(&chart);
        return e;
    }
    memset(p.rgb, 255, (size_t)(3 * p.width * p.height));
    put_legend(&p, &chart);
    if (chart.lines.count > 0) {
        put_axes(&p, &chart);
        put_losses(&p, &chart);
        put_validations(&p, &chart);
    }
    e = picture_write(&p, path, NULL);
    picture_free(&p);
    chart_free(&chart);
    return e;
}
