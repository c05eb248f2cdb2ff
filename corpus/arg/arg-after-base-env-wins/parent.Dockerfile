FROM scratch
ENV A=base
