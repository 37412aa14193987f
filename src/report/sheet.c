#include "report/sheet.h"

#include <string.h>

#include "files/file.h"
#include "report/pen.h"

enum { SMALLEST_CELL = 128, COLUMNS = 8, PROMPT_LINES = 5 };

static const struct color ink = {{40, 48, 60}}, soft = {{86, 98, 114}};

/* The sheet while it is filled from top to bottom. */
struct sheet {
    struct picture picture; /* without pixels in the first pass, which finds the height */
    int64_t cell, gap, columns;
    double unit; /* of letters, see report/pen.h: 16 of them in a cell's width */
    int64_t y;
};

static int64_t column_x(const struct sheet *s, int64_t column)
{
    return s->gap + column * (s->cell + s->gap);
}

static struct error put_cells(struct sheet *s, const struct picture *pictures, int64_t count)
{
    for (int64_t i = 0; i < count && s->picture.rgb; i++) {
        struct picture sized;
        TRY(picture_resize(&sized, &pictures[i], s->cell, s->cell));
        picture_paste(&s->picture, &sized, column_x(s, i), s->y);
        picture_free(&sized);
    }
    s->y += s->cell + s->gap;
    return ok();
}

/* A row's label, over all columns, and the row. */
static struct error put_row(struct sheet *s, const char *label, const struct picture *pictures, int64_t count)
{
    double width = (double)(column_x(s, s->columns) - 2 * s->gap);
    s->y += s->gap;
    pen_paragraph(s->picture.rgb ? &s->picture : NULL, label, (double)s->gap, (double)s->y, s->unit, ink, width, 1);
    s->y += (int64_t)(PEN_LINE * s->unit);
    return put_cells(s, pictures, count);
}

static void put_prompts(struct sheet *s, const char *const *prompts, int64_t count)
{
    int most = 0;
    for (int64_t i = 0; i < count; i++) {
        int lines = pen_paragraph(s->picture.rgb ? &s->picture : NULL, prompts[i], (double)column_x(s, i), (double)s->y,
                                  s->unit, soft, (double)s->cell, PROMPT_LINES);
        most = lines > most ? lines : most;
    }
    s->y += (int64_t)(most * PEN_LINE * s->unit) + s->gap;
}

static struct error fill(struct sheet *s, const struct report_pictures *p)
{
    s->y = 0;
    TRY(put_row(s, "photos", p->photos, p->photo_count < COLUMNS ? p->photo_count : COLUMNS));
    for (int64_t i = 0; i < p->prompt_count; i += COLUMNS) {
        int64_t count = p->prompt_count - i < COLUMNS ? p->prompt_count - i : COLUMNS;
        TRY(put_row(s, p->start_label, p->start + i, count));
        TRY(put_row(s, p->learned_label, p->learned + i, count));
        put_prompts(s, p->prompts + i, count);
    }
    return ok();
}

struct error sheet_write(const char *folder, const struct report_pictures *p, int64_t side)
{
    struct sheet s = {.cell = side};
    char path[PATH_SIZE];
    TRY(path_join(path, folder, "grid.png"));
    while (s.cell < SMALLEST_CELL)
        s.cell *= 2;
    s.gap = s.cell / 20;
    s.unit = (double)s.cell / 98;
    s.columns = p->photo_count > p->prompt_count ? p->photo_count : p->prompt_count;
    s.columns = s.columns < COLUMNS ? s.columns : COLUMNS;
    TRY(fill(&s, p));
    TRY(picture_new(&s.picture, column_x(&s, s.columns), s.y));
    memset(s.picture.rgb, 255, (size_t)(s.picture.width * s.picture.height * 3));
    struct error e = fill(&s, p);
    if (e.code == ERROR_NONE)
        e = picture_write(&s.picture, path, NULL);
    picture_free(&s.picture);
    return e;
}
