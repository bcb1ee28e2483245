/* What Lua asks for and WASI does not have: it fails at run time instead. Included before every file. */
#include <stdio.h>
#include <stdlib.h>

#define L_tmpnam 32
#define tmpfile() ((FILE *)0)
#define tmpnam(buffer) ((void)(buffer), (char *)0)
#define system(command) ((void)(command), -1)
