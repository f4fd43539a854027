"""Starts `lidit_stickers.making.trigger`: the name of before, for one release."""

import runpy

runpy.run_module("lidit_stickers.making.trigger", run_name="__main__", alter_sys=True)
