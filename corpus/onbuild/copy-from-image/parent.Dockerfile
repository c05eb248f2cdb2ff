FROM scratch
ONBUILD COPY --from=tools /etc/group /x
