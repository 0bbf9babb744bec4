"""The playground's own ``modules`` package: what extensions of Stable Diffusion web UIs import, as far as RefDrop needs.

It is importable only in the playground's process (:mod:`lib_refdrop.playground.host`).
"""
