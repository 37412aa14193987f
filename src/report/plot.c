#include "report/plot.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

#include "files/file.h"
#include "files/picture.h"
#include "report/chart.h"

/* Everything is drawn by one primitive: a round-ended stroke whose edge is smoothed by its distance to the pixel,
 * letters included. */
enum { WIDTH = 1280, HEIGHT = 720, LEFT = 130, RIGHT = 40, TOP = 80, BOTTOM = 90 };

struct color {
    uint8_t rgb[3];
};

static const struct color paper = {{255, 255, 255}}, grid = {{226, 230, 236}}, ink = {{75, 85, 99}};
static const struct color dots = {{120, 150, 190}}, line = {{29, 78, 216}}, marks = {{217, 84, 20}};

static double distance_to(double px, double py, double x0, double y0, double x1, double y1)
{
    double dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy;
    double t = length > 0 ? ((px - x0) * dx + (py - y0) * dy) / length : 0;
    t = fmin(fmax(t, 0), 1);
    return hypot(px - x0 - t * dx, py - y0 - t * dy);
}

static int64_t clamp(double value, int64_t high)
{
    return !(value > 0) ? 0 : value > (double)high ? high : (int64_t)value;
}

/* A line of the given half width between two points; equal points make a dot. */
static void stroke(struct picture *p, double x0, double y0, double x1, double y1, double radius, struct color color,
                   double alpha)
{
    int64_t top = clamp(floor(fmin(y0, y1) - radius - 1), p->height - 1);
    int64_t bottom = clamp(ceil(fmax(y0, y1) + radius + 1), p->height - 1);
    int64_t left = clamp(floor(fmin(x0, x1) - radius - 1), p->width - 1);
    int64_t right = clamp(ceil(fmax(x0, x1) + radius + 1), p->width - 1);
    for (int64_t y = top; y <= bottom; y++)
        for (int64_t x = left; x <= right; x++) {
            double edge = radius + 0.5 - distance_to((double)x + 0.5, (double)y + 0.5, x0, y0, x1, y1);
            double cover = alpha * fmin(fmax(edge, 0), 1);
            uint8_t *pixel = p->rgb + 3 * (y * p->width + x);
            for (int c = 0; c < 3 && cover > 0; c++)
                pixel[c] = (uint8_t)lround(pixel[c] + cover * (color.rgb[c] - pixel[c]));
        }
}

/* Letters as pen strokes: points xy on a grid, capitals from y 0 to 6, small ones from 2 to 6; '/' lifts the pen. */
static const char *const letters[128] = {
    ['0'] = "10 30 41 45 36 16 05 01 10",
    ['1'] = "11 20 26/16 36",
    ['2'] = "01 10 30 41 42 06 46",
    ['3'] = "01 10 30 41 42 33 44 45 36 16 05/13 33",
    ['4'] = "36 30 04 44",
    ['5'] = "40 00 02 32 43 45 36 16 05",
    ['6'] = "41 30 10 01 05 16 36 45 44 33 03",
    ['7'] = "00 40 16",
    ['8'] = "13 02 01 10 30 41 42 33 13 04 05 16 36 45 44 33",
    ['9'] = "05 16 36 45 41 30 10 01 02 13 43",
    ['.'] = "26",
    ['-'] = "03 43",
    ['a'] = "12 32 43 46/44 14 05 16 36 45",
    ['d'] = "40 46/43 32 12 03 05 16 36 45",
    ['e'] = "04 44 43 32 12 03 05 16 36",
    ['g'] = "42 47 38 18 07/43 32 12 03 05 16 36 45",
    ['i'] = "22 26/20",
    ['l'] = "10 20 25 36",
    ['m'] = "02 06/03 12 23 26/23 32 43 46",
    ['n'] = "02 06/03 12 32 43 46",
    ['o'] = "12 32 43 45 36 16 05 03 12",
    ['p'] = "02 08/03 12 32 43 45 36 16 05",
    ['r'] = "02 06/04 13 22 42",
    ['s'] = "43 32 12 03 14 34 45 36 16 05",
    ['t'] = "10 15 26 36/02 32",
    ['u'] = "02 05 16 36 45/42 46",
    ['v'] = "02 26 42",
};

enum { LETTER_WIDTH = 6, LETTER_HEIGHT = 6 }; /* in units of the grid, the gap to the next letter included */

static double text_width(const char *text, double unit)
{
    return (double)strlen(text) * LETTER_WIDTH * unit - 2 * unit;
}

static void put_letter(struct picture *p, const char *points, double x, double y, double unit, struct color color)
{
    double from_x = 0, from_y = 0;
    bool down = false;
    for (const char *at = points; *at; at++) {
        if (*at == '/')
            down = false;
        if (!isdigit((unsigned char)*at))
            continue;
        double to_x = x + (at[0] - '0') * unit, to_y = y + (at[1] - '0') * unit;
        stroke(p, down ? from_x : to_x, down ? from_y : to_y, to_x, to_y, 0.36 * unit, color, 1);
        from_x = to_x;
        from_y = to_y;
        down = true;
        at++;
    }
}

/* Text with its upper left corner at (x, y). */
static void put_text(struct picture *p, const char *text, double x, double y, double unit, struct color color)
{
    for (; *text; text++, x += LETTER_WIDTH * unit)
        if ((unsigned char)*text < 128 && letters[(unsigned char)*text])
            put_letter(p, letters[(unsigned char)*text], x, y, unit, color);
}

static double place_x(const struct chart *chart, double step)
{
    return LEFT + axis_part(&chart->x, step) * (WIDTH - LEFT - RIGHT);
}

static double place_y(const struct chart *chart, double value)
{
    return HEIGHT - BOTTOM - axis_part(&chart->y, value) * (HEIGHT - TOP - BOTTOM);
}

static void put_axes(struct picture *p, const struct chart *chart)
{
    const double unit = 2.8;
    char text[64];
    for (int i = 0; i < chart->y.tick_count; i++) {
        double y = place_y(chart, chart->y.ticks[i]);
        stroke(p, LEFT, y, WIDTH - RIGHT, y, 0.5, grid, 1);
        snprintf(text, sizeof text, "%.*f", chart->y.decimals, chart->y.ticks[i]);
        put_text(p, text, LEFT - 18 - text_width(text, unit), y - LETTER_HEIGHT * unit / 2, unit, ink);
    }
    for (int i = 0; i < chart->x.tick_count; i++) {
        double x = place_x(chart, chart->x.ticks[i]);
        stroke(p, x, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 7, 0.6, ink, 1);
        snprintf(text, sizeof text, "%.0f", chart->x.ticks[i]);
        put_text(p, text, x - text_width(text, unit) / 2, HEIGHT - BOTTOM + 18, unit, ink);
    }
    stroke(p, LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, 0.8, ink, 1);
    put_text(p, "step", WIDTH - RIGHT - text_width("step", unit), HEIGHT - 38, unit, ink);
}

static void put_legend(struct picture *p)
{
    const double unit = 2.8, y = 32, middle = y + 4 * 2.8;
    stroke(p, LEFT + 8, middle, LEFT + 8, middle, 3.5, dots, 1);
    put_text(p, "loss", LEFT + 28, y, unit, ink);
    stroke(p, LEFT + 160, middle, LEFT + 200, middle, 2, line, 1);
    put_text(p, "running mean", LEFT + 216, y, unit, ink);
    stroke(p, LEFT + 480, middle, LEFT + 480, middle, 6, marks, 1);
    put_text(p, "validation", LEFT + 502, y, unit, ink);
}

static void put_losses(struct picture *p, const struct chart *chart)
{
    // the more points, the fainter, so that the mean stands out
    double alpha = fmin(fmax(400.0 / (double)chart->lines.count, 0.12), 0.6);
    for (int64_t i = 0; i < chart->lines.count; i++)
        if (chart_shows(chart, chart->lines.losses[i])) {
            double x = place_x(chart, (double)chart->lines.steps[i]), y = place_y(chart, chart->lines.losses[i]);
            stroke(p, x, y, x, y, 2, dots, alpha);
        }
    for (int64_t i = 1; i < chart->lines.count; i++)
        if (isfinite(chart->mean[i - 1]) && isfinite(chart->mean[i]))
            stroke(p, place_x(chart, (double)chart->lines.steps[i - 1]), place_y(chart, chart->mean[i - 1]),
                   place_x(chart, (double)chart->lines.steps[i]), place_y(chart, chart->mean[i]), 1.5, line, 1);
}

static void put_validations(struct picture *p, const struct chart *chart)
{
    double last_x = NAN, last_y = NAN;
    for (int64_t i = 0; i < chart->lines.count; i++) {
        if (!isfinite(chart->lines.validations[i]))
            continue;
        double x = place_x(chart, (double)chart->lines.steps[i]), y = place_y(chart, chart->lines.validations[i]);
        if (isfinite(last_x))
            stroke(p, last_x, last_y, x, y, 1, marks, 0.6);
        stroke(p, x, y, x, y, 7, paper, 1);
        stroke(p, x, y, x, y, 5, marks, 1);
        last_x = x;
        last_y = y;
    }
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
    put_legend(&p);
    if (chart.lines.count > 0) {
        put_axes(&p, &chart);
        put_losses(&p, &chart);
        put_validations(&p, &chart);
    }
    e = picture_write(&p, path);
    picture_free(&p);
    chart_free(&chart);
    return e;
}
