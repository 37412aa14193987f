#include "report/thumbnail.h"

#include <string.h>

#include "files/file.h"

enum { QUALITY = 85, GRAY = 128 }; /* gray: between the pictures, on a light page or a dark one */

static struct error put_square(struct picture *strip, int64_t place, const struct picture *picture)
{
    struct picture square;
    TRY(picture_fit(&square, picture, THUMBNAIL_SIDE, THUMBNAIL_SIDE, FIT_CROP));
    picture_paste(strip, &square, place * (THUMBNAIL_SIDE + THUMBNAIL_GAP), 0);
    picture_free(&square);
    return ok();
}

/* shown [count]: the pictures, from the left. */
static struct error write_strip(const char *path, const struct picture *const *shown, int64_t count)
{
    struct picture strip;
    TRY(picture_new(&strip, count * (THUMBNAIL_SIDE + THUMBNAIL_GAP) - THUMBNAIL_GAP, THUMBNAIL_SIDE));
    memset(strip.rgb, GRAY, (size_t)(strip.width * strip.height * 3));
    struct error e = ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++)
        e = put_square(&strip, i, shown[i]);
    if (e.code == ERROR_NONE)
        e = picture_write_jpeg(&strip, path, QUALITY);
    picture_free(&strip);
    return e;
}

struct error thumbnail_write(const char *folder, const struct report_pictures *p)
{
    const struct picture *shown[THUMBNAIL_PICTURES];
    int64_t count = 0, photos = p->prompt_count > 0 ? 1 : THUMBNAIL_PICTURES;
    char path[PATH_SIZE];
    TRY(path_join(path, folder, "thumbnail.jpg"));
    for (int64_t i = 0; i < p->photo_count && count < photos; i++)
        shown[count++] = &p->photos[i];
    for (int64_t i = 0; i < p->prompt_count && count < THUMBNAIL_PICTURES; i++)
        shown[count++] = &p->learned[i];
    return count > 0 ? write_strip(path, shown, count) : ok();
}
