FROM scratch
ONBUILD COPY --from=build /f /x
