"""Starts `lidit_stickers.score`: the name of before, for one release."""

import runpy

runpy.run_module("lidit_stickers.score", run_name="__main__", alter_sys=True)
