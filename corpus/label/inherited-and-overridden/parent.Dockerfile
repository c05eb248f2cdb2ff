FROM scratch
LABEL a=parent b=parent
