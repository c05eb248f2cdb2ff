#!/bin/sh
exec cat "$GREETING"
