"""Starts `lidit_stickers.making.train_checkpoint`: the name of before, for one release."""

import runpy

runpy.run_module("lidit_stickers.making.train_checkpoint", run_name="__main__", alter_sys=True)
