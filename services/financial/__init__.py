"""A financial MCP server, for any MCP host and for the mesh: `python -m services.financial [--data-dir DIR]`.

    __main__ -> server -> cash_flows | loans | bonds | options | portfolio_tool -> portfolio -> limits
                                                                       `-> prices -> price_table -^

The modules below `server` know nothing of MCP: they take numbers and give result models. numpy, scipy and
numpy-financial are imported inside the functions that need them, because an idle server should be small. It imports
nothing from `mesh`.
"""
