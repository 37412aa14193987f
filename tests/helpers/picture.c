/* picture IN OUT.png [WIDTHxHEIGHT crop|squash] [over COLOR]: reads a picture, lays it over a color, fits it, writes it.
 * Exit codes as zoodip's. */
#include <stdio.h>
#include <string.h>

#include "files/picture.h"
#include "helper.h"

static struct error run(int argc, char **argv)
{
    struct picture picture, fitted;
    int width = 0, height = 0;
    uint8_t background[3];
    bool over = argc >= 5 && strcmp(argv[argc - 2], "over") == 0, shown = false;
    if (over && !picture_background(argv[argc - 1], background, &shown))
        return error_input("%s: no color", argv[argc - 1]);
    argc -= over ? 2 : 0;
    if (argc != 3 && (argc != 5 || sscanf(argv[3], "%dx%d", &width, &height) != 2 || width < 1 || height < 1))
        return error_input("usage: picture IN OUT.png [WIDTHxHEIGHT crop|squash] [over COLOR]");
    TRY(picture_read(&picture, argv[1], shown ? background : NULL));
    struct error e = ok();
    if (argc == 5) {
        e = picture_fit(&fitted, &picture, width, height, strcmp(argv[4], "crop") == 0 ? FIT_CROP : FIT_SQUASH);
        picture_free(&picture);
        picture = fitted;
    }
    if (e.code == ERROR_NONE)
        e = picture_write(&picture, argv[2], NULL);
    picture_free(&picture);
    return e;
}

int main(int argc, char **argv)
{
    return helper_end("picture", run(argc, argv));
}
