FROM scratch
ONBUILD COPY <<EOF /f
from the trigger
EOF
