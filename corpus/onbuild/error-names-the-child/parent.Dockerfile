FROM scratch
ONBUILD COPY nope /x
