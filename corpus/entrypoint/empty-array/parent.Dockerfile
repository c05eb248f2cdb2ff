FROM scratch
ENTRYPOINT ["/e"]
