FROM tools
ONBUILD RUN --mount=from=build,source=/f,target=/m cat /m > /o
