FROM scratch
WORKDIR /a
