"""Starts `lidit_stickers.making.train_autoencoder`: the name of before, for one release."""

import runpy

runpy.run_module("lidit_stickers.making.train_autoencoder", run_name="__main__", alter_sys=True)
