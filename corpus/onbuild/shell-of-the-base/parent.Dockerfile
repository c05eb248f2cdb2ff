FROM tools
SHELL ["/bin/sh", "-e", "-c"]
ONBUILD RUN echo $- > /o
