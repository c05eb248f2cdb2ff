FROM scratch
ONBUILD COPY f /x
